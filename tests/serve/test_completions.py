"""The routes in this process: texts are the engine's own, fields are obeyed or refused by name."""

import asyncio
import json
import math
import os
import threading
from dataclasses import replace

import pytest

from itera_lite.engine import Model
from itera_lite.engine.find import model_name
from itera_lite.serve import openapi, protocol
from itera_lite.serve.app import Server, Settings
from itera_lite.serve.prefixes import PrefixCache
from itera_lite.serve.scheduler import Entry
from itera_lite.serve.texts import LogProbsWriter
from tests.serve.conftest import LIMIT, NAME, Local

STORY = "Once upon a time, there was a"
GREEDY = {"temperature": 0, "max_tokens": 24}


def greedy(model, prompt, tokens=24, **options):
    return model.generate(prompt, temperature=0, max_tokens=tokens, **options).text


def test_a_completion_is_the_engine_s_own_text(local, model):
    answer = local.answer("/v1/completions", prompt=STORY, **GREEDY)
    assert answer["object"] == "text_completion" and answer["model"] == NAME
    assert answer["id"].startswith("cmpl-") and "usage" in answer
    (choice,) = answer["choices"]
    assert choice == {
        "index": 0,
        "text": greedy(model, STORY),
        "logprobs": None,
        "finish_reason": "length",
    }
    n = len(model.tokenize(STORY))
    usage = {"prompt_tokens": n, "completion_tokens": 24, "total_tokens": n + 24}
    assert answer["usage"] == usage


def test_prompts_are_texts_and_ids_and_lists_of_them(local, model):
    ids, other = model.tokenize(STORY), "The dog"
    expected = greedy(model, STORY), greedy(model, other)
    for prompt in (STORY, ids, [model.bos_id, *ids], [STORY], [ids]):
        (choice,) = local.answer("/v1/completions", prompt=prompt, **GREEDY)["choices"]
        assert choice["text"] == expected[0]
    for prompt in ([STORY, other], [ids, model.tokenize(other)]):
        answer = local.answer("/v1/completions", prompt=prompt, n=2, **GREEDY)
        assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
        texts = [c["text"] for c in answer["choices"]]
        assert texts == [expected[0]] * 2 + [expected[1]] * 2
        assert answer["usage"]["completion_tokens"] == 4 * 24
    assert local.answer("/v1/completions", prompt="", **GREEDY)["choices"][0]["text"] == greedy(
        model, ""
    )


def test_options_reach_the_sampler(local, model):
    options = {"max_tokens": 20, "temperature": 0.9, "top_p": 0.8}
    one = local.answer("/v1/completions", prompt=STORY, seed=5, n=2, **options)["choices"]
    again = local.answer("/v1/completions", prompt=[STORY], seed=6, **options)["choices"]
    assert one[1]["text"] == again[0]["text"] != one[0]["text"]
    direct = model.generate(STORY, seed=5, **options)
    assert one[0]["text"] == direct.text

    def first(**fields):
        return local.answer("/v1/completions", prompt=STORY, **GREEDY, **fields)["choices"][0]

    usual = model.tokenize(first()["text"])[0]
    assert model.tokenize(first(logit_bias={str(usual): -100})["text"])[0] != usual
    assert first(logit_bias={}) == first() == first(stop=None, user="me", suffix=None)
    longer = {"prompt": STORY, "temperature": 0, "max_tokens": 100}
    for name in ("presence_penalty", "frequency_penalty"):
        expected = greedy(model, STORY, 100, **{name: 2.0})
        (found,) = local.answer("/v1/completions", **longer, **{name: 2.0})["choices"]
        assert found["text"] == expected != greedy(model, STORY, 100)
    assert first(repetition_penalty=1.5)["text"] == greedy(model, STORY, repetition_penalty=1.5)
    assert local.answer("/v1/completions", prompt=STORY, top_p=0, max_tokens=8, seed=1)["choices"][
        0
    ]["text"] == greedy(model, STORY, 8)


def test_the_penalty_of_the_file_comes_with_its_window(local, model, monkeypatch):
    """One that a request gives looks back 64 tokens."""
    advice = {"repetition_penalty": 4.0, "repetition_window": 512}
    monkeypatch.setattr(Model, "sampling_defaults", model.sampling_defaults | advice)
    a, b, c = (model.tokenize(letter)[0] for letter in "abc")
    fields = {"prompt": [a, *[c] * 70], "logit_bias": {str(a): 100, str(b): 60}}
    fields |= {"temperature": 0, "max_tokens": 1}
    (choice,) = local.answer("/v1/completions", **fields)["choices"]
    assert choice["text"] == "b"
    (choice,) = local.answer("/v1/completions", repetition_penalty=4.0, **fields)["choices"]
    assert choice["text"] == "a"


@pytest.mark.parametrize(
    ("begin", "length", "other"), [(8, 6, None), (30, 4, "zebra"), (41, 20, "~")]
)
def test_a_stop_text_ends_the_text_before_it(local, model, begin, length, other):
    """Wherever tokens end: a part of the text stands in its place."""
    whole = greedy(model, STORY, 60)
    stop = whole[begin : begin + length]
    end = whole.find(stop)
    if other is not None:
        stop = [other, stop]
    fields = {"prompt": STORY, "temperature": 0, "max_tokens": 60, "stop": stop}
    (choice,) = local.answer("/v1/completions", **fields)["choices"]
    assert choice["finish_reason"] == "stop" and choice["text"] == whole[:end]
    events = local.events("/v1/completions", **fields)
    assert "".join(e["choices"][0]["text"] for e in events) == choice["text"]
    reasons = [e["choices"][0]["finish_reason"] for e in events]
    assert reasons == [None] * (len(events) - 1) + ["stop"]


def test_a_stream_is_the_same_text_in_parts(local):
    fields = {"prompt": [STORY, "Tom"], "temperature": 0, "max_tokens": 100, "n": 2}
    whole = local.answer("/v1/completions", **fields)
    events = local.events("/v1/completions", stream_options={"include_usage": True}, **fields)
    assert len({e["id"] for e in events}) == 1 and {e["object"] for e in events} == {
        "text_completion"
    }
    *parts, last = events
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert all(part["usage"] is None for part in parts)
    for choice in whole["choices"]:
        mine = [p["choices"][0] for p in parts if p["choices"][0]["index"] == choice["index"]]
        assert "".join(part["text"] for part in mine) == choice["text"]
        reasons = [part["finish_reason"] for part in mine]
        assert reasons == [None] * (len(mine) - 1) + [choice["finish_reason"]]
    assert "usage" not in local.events("/v1/completions", **fields)[0]


def test_characters_are_never_cut(local, model):
    """Tokens that are parts of characters: every event is whole characters, as is the sum."""
    snow = "\u2603\U0001f600"
    bias = {str(token): 100 for token in model.tokenize(snow)}
    for seed in range(4):
        fields = {"prompt": snow, "logit_bias": bias, "max_tokens": 40, "seed": seed}
        fields |= {"temperature": 1, "logprobs": 0, "top_k": 0}
        whole = local.answer("/v1/completions", **fields)["choices"][0]
        events = local.events("/v1/completions", **fields)
        assert "".join(e["choices"][0]["text"] for e in events) == whole["text"]
        logs = [e["choices"][0]["logprobs"] for e in events]
        for name in ("tokens", "token_logprobs", "text_offset"):
            assert [x for log in logs for x in log[name]] == whole["logprobs"][name]
        assert any(token.startswith("bytes:\\x") for token in whole["logprobs"]["tokens"])


def test_log_probabilities_are_the_engine_s(local, model):
    fields = {"prompt": STORY, "max_tokens": 30, "seed": 3, "temperature": 1.0, "logprobs": 4}
    choice = local.answer("/v1/completions", **fields)["choices"][0]
    direct = model.generate(STORY, max_tokens=30, seed=3, temperature=1.0, top_log_probabilities=4)
    logs = choice["logprobs"]
    n = len(direct.token_ids)
    assert logs["token_logprobs"][:n] == direct.log_probabilities
    assert "".join(logs["tokens"][:n]) == choice["text"] == direct.text
    for token, begin in zip(logs["tokens"][:n], logs["text_offset"], strict=False):
        assert choice["text"][begin:].startswith(token)
    chosen_first = 0
    for token, value, top in zip(
        logs["tokens"], logs["token_logprobs"], logs["top_logprobs"], strict=True
    ):
        assert top[token] == value and 4 <= len(top) <= 5
        assert sum(map(math.exp, top.values())) < 1.0001
        chosen_first += value == max(top.values())
    assert 0 < chosen_first < 30
    streamed = local.events("/v1/completions", **fields)
    for name in logs:
        parts = [e["choices"][0]["logprobs"][name] for e in streamed]
        assert [x for part in parts for x in part] == logs[name]


@pytest.mark.parametrize("max_tokens", [0, 1, 5])
def test_echo_scores_the_prompt(local, model, max_tokens):
    """By the same numbers as the engine's scores; the first token has one, for it is predicted."""
    long = " ".join([greedy(model, STORY, 120)] * 2)
    ids = model.tokenize(long)
    assert len(ids) > 130  # several parts
    fields = {"echo": True, "logprobs": 1, "temperature": 0, "max_tokens": max_tokens}
    (score,) = model.score(long, log_probabilities=True)
    for prompt in (long, ids, [[model.bos_id, *ids]]):
        choice = local.answer("/v1/completions", prompt=prompt, **fields)["choices"][0]
        logs = choice["logprobs"]
        values, tokens = logs["token_logprobs"], logs["tokens"]
        if isinstance(prompt[0], list):
            assert (values.pop(0), tokens.pop(0)) == (None, "<|endoftext|>")
            assert logs["top_logprobs"].pop(0) is None
        else:
            more = greedy(model, long, max_tokens) if max_tokens else ""
            assert choice["text"] == long + more
        assert values[: len(ids)] == pytest.approx(score.log_probabilities[:-1], abs=1e-5)
        assert len(values) == len(ids) + max_tokens == len(logs["top_logprobs"])
        assert "".join(tokens[: len(ids)]) == long
        likeliest = [
            value == max(top.values())
            for value, top in zip(values, logs["top_logprobs"], strict=True)
        ]
        direct = model.token_scores([model.bos_id, *ids], top=1)[1:]
        assert likeliest[: len(ids)] == [s.top[0][0] == s.id for s in direct]
        assert all(likeliest[len(ids) :])


def test_the_end_of_a_document_has_its_log_probability(local, model):
    """Else lm-eval, which drops the last entry, would drop a token of the prompt."""
    end = {str(model.eot_id): 100}
    fields = {"prompt": STORY, "max_tokens": 5, "logprobs": 1, "logit_bias": end}
    choice = local.answer("/v1/completions", **fields)["choices"][0]
    assert choice["text"] == "" and choice["finish_reason"] == "stop"
    ids = [model.bos_id, *model.tokenize(STORY), model.eot_id]
    expected = model.token_scores(ids, top=1)[-1]
    assert choice["logprobs"]["tokens"] == ["<|endoftext|>"]
    assert choice["logprobs"]["token_logprobs"] == pytest.approx([expected.log_probability])
    assert len(choice["logprobs"]["top_logprobs"][0]) == 2  # it wasn't the likeliest


def test_two_tokens_of_one_name_keep_the_likelier(local):
    vocabulary = local.server.vocabulary
    names, vocabulary.names = vocabulary.names, ["same"] * len(vocabulary.names)
    try:
        first = LogProbsWriter(vocabulary).write([Entry(5, -2.0, [(7, -0.5), (8, -1.0)])])
        assert first.top_logprobs == [{"same": -0.5}] and first.token_logprobs == [-2.0]
    finally:
        vocabulary.names = names


def test_a_chat_goes_on_from_its_messages(local, model):
    messages = [
        {"role": "system", "content": "Tell a story."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Once"}, {"type": "text", "text": " upon"}],
        },
    ]
    prompt = "Tell a story.\nOnce upon"
    answer = local.answer("/v1/chat/completions", messages=messages, **GREEDY)
    assert answer["object"] == "chat.completion" and answer["id"].startswith("chatcmpl-")
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": greedy(model, prompt)}
    events = local.events("/v1/chat/completions", messages=messages, **GREEDY)
    deltas = [e["choices"][0]["delta"] for e in events]
    assert deltas[0]["role"] == "assistant" and all("role" not in d for d in deltas[1:])
    assert "".join(d.get("content", "") for d in deltas) == choice["message"]["content"]
    logs = local.answer(
        "/v1/chat/completions",
        messages=messages,
        logprobs=True,
        top_logprobs=2,
        temperature=0,
        max_completion_tokens=6,
    )["choices"][0]["logprobs"]["content"]
    assert len(logs) == 6
    for one in logs:
        assert bytes(one["bytes"]).decode() == one["token"]
        assert one["logprob"] == one["top_logprobs"][0]["logprob"]
        assert len(one["top_logprobs"]) == 2
    shown = local.ask("GET", "/tokenizer_info").json()
    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Template(shown["chat_template"])
    plain = [{"role": "user", "content": text} for text in ("A", "B", "C")]
    assert template.render(messages=plain) == "A\nB\nC"


def test_a_null_is_as_if_it_were_left_out(local):
    """Clients write nulls for what they don't use, inside messages too."""
    part = {"type": "text", "text": STORY, "image_url": None}
    message = {"role": "user", "content": [part], "name": None, "tool_calls": None}
    options = {"include_usage": None, "include_obfuscation": None}
    path, plain = "/v1/chat/completions", [{"role": "user", "content": STORY}]
    expected = local.answer(path, messages=plain, **GREEDY)["choices"]
    assert local.answer(path, messages=[message], tools=None, **GREEDY)["choices"] == expected
    events = local.events(path, messages=[message], stream_options=options, **GREEDY)
    deltas = [event["choices"][0]["delta"] for event in events]
    text = "".join(delta.get("content", "") for delta in deltas)
    assert text == expected[0]["message"]["content"]


REFUSED = [
    ({}, "prompt", "required field 'prompt'"),
    ({"prompt": "x", "best_of": 2}, "best_of", "isn't supported"),
    ({"prompt": "x", "suffix": "y"}, "suffix", "isn't supported"),
    ({"prompt": "x", "tools": []}, "tools", "isn't supported"),
    ({"prompt": "x", "max_tokens": "many"}, "max_tokens", "Expected 'int"),
    ({"prompt": "x", "max_tokens": -1}, "max_tokens", ">= 0"),
    ({"prompt": "x", "temperature": 3}, "temperature", "<= 2"),
    ({"prompt": "x", "top_p": 1.5}, "top_p", "<= 1"),
    ({"prompt": "x", "n": 0}, "n", ">= 1"),
    ({"prompt": "x", "n": 10**30}, "n", ""),
    ({"prompt": ["x", "y"], "n": 200}, "n", "more than 256 texts"),
    ({"prompt": "x", "logprobs": 21}, "logprobs", "<= 20"),
    ({"prompt": "x", "stop": [""]}, "stop[0]", "length >= 1"),
    ({"prompt": "x", "stop": ["a"] * 17}, "stop", "length <= 16"),
    ({"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias", ""),
    ({"prompt": "x", "logit_bias": {"5": 101}}, "logit_bias", "<= 100"),
    ({"prompt": "x", "logit_bias": {"5": -(10**400)}}, "logit_bias", ">= -100"),
    ({"prompt": "x", "logit_bias": {"5": None}}, "logit_bias", "null"),
    ({"prompt": "x", "presence_penalty": 10**400}, "presence_penalty", "<= 2"),
    ({"prompt": "x", "logit_bias": {"99999999": 1}}, "logit_bias", "out of the vocabulary"),
    ({"prompt": [10**6]}, "prompt", "out of the vocabulary"),
    ({"prompt": []}, "prompt", "empty list"),
    ({"prompt": [[]]}, "prompt", "empty list"),
    ({"prompt": ["x", 5]}, "prompt", "mixes"),
    ({"prompt": 5}, "prompt", "Expected"),
    ({"prompt": "x", "max_tokens": 10**7}, "prompt", "there is room for"),
    ({"prompt": "x", "stream_options": {"include_usage": True}}, "stream_options", "stream"),
    ({"prompt": "x", "stream": True, "stream_options": {"x": 1}}, "stream_options.x", ""),
    ({"prompt": "x", "seed": 2**63}, "seed", ""),
]


@pytest.mark.parametrize(("fields", "param", "told"), REFUSED)
def test_what_cannot_be_used_is_refused_by_its_name(local, fields, param, told):
    response = local.post("/v1/completions", **fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param and told in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "secret"}]}, "messages[0].role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0].type",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0].name"),
        ({"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2}, "top_logprobs"),
        (
            {
                "messages": [{"role": "user", "content": "x"}],
                "max_tokens": 2,
                "max_completion_tokens": 2,
            },
            "max_tokens",
        ),
        ({"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, "tools"),
    ],
)
def test_a_chat_refuses_what_it_has_not(local, fields, param):
    response = local.post("/v1/chat/completions", **fields)
    error = response.json()["error"]
    assert response.status_code == 400 and error["param"] == param
    assert "secret" not in response.text and "robot" not in response.text


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"5", b'{"prompt": "\xff"}', b'{"prompt": NaN}', b"[" * 100_000]
)
def test_what_is_no_json_is_refused(local, body):
    response = local.ask("POST", "/v1/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_half_a_surrogate_pair_is_an_answer_or_a_refusal(local):
    body = b'{"prompt": "\\ud83d", "max_tokens": 1}'
    assert local.ask("POST", "/v1/completions", content=body).status_code in (200, 400)


def test_models_and_unknown_paths(local):
    (card,) = local.ask("GET", "/v1/models").json()["data"]
    assert card["id"] == NAME and card["object"] == "model"
    assert local.ask("GET", f"/v1/models/{NAME}").json() == card
    for response in (
        local.ask("GET", "/v1/models/other"),
        local.post("/v1/completions", prompt="x", model="other"),
    ):
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "model_not_found"
    assert local.answer("/v1/completions", prompt="x", model=NAME, max_tokens=1)
    for path in ("/nowhere", "/v1/models/../../etc/passwd", "/v1/models/"):
        response = local.ask("GET", path)
        assert response.status_code == 404 and "error" in response.json()
    response = local.ask("GET", "/v1/completions")
    assert response.status_code == 405 and response.headers["allow"] == "POST"
    assert response.json()["error"]["message"]


def test_a_model_whose_name_is_not_utf_8(model, tmp_path):
    name = model_name(tmp_path / os.fsdecode(b"m\xff.gguf"))
    with Local(Server(model, Settings(name=name))) as local:
        (card,) = local.ask("GET", "/v1/models").json()["data"]
        assert card["id"] == "m\ufffd"
        assert local.answer("/v1/completions", prompt="x", model=card["id"], max_tokens=1)


def test_tokens(local, model):
    ids = model.tokenize(STORY)
    plain = local.answer("/tokenize", prompt=STORY, add_special_tokens=False)
    assert plain == {"tokens": ids, "count": len(ids), "max_model_len": model.context}
    assert local.answer("/tokenize", prompt=STORY)["tokens"] == [model.bos_id, *ids]
    assert local.answer("/detokenize", tokens=ids) == {"prompt": STORY}
    info = local.ask("GET", "/tokenizer_info").json()
    for name in ("eos", "bos"):  # as lm-eval finds their ids
        (found,) = local.answer(
            "/tokenize", prompt=info[f"{name}_token"], add_special_tokens=False
        )["tokens"]
        assert found == info[f"{name}_token_id"]
    led = local.answer("/detokenize", tokens=[model.bos_id, *ids])["prompt"]
    again = local.answer("/tokenize", prompt=led, add_special_tokens=False)["tokens"]
    assert again == [model.bos_id, *ids]
    assert local.answer("/v1/completions", prompt=led, **GREEDY)["choices"][0]["text"] == greedy(
        model, STORY
    )
    long = STORY * 1000
    assert local.answer("/tokenize", prompt=long, add_special_tokens=False)[
        "tokens"
    ] == model.tokenize(long)


def test_scores(local, model):
    texts = [STORY, "", "snow \u2603"]
    answer = local.answer("/score", text=texts)
    for text, found in zip(texts, answer["scores"], strict=True):
        (expected,) = model.score(text, log_probabilities=True)
        assert found["nats"] == expected.nats and found["tokens"] == expected.tokens
        assert found["bits_per_byte"] == (expected.bits_per_byte if text else None)
        bits = [one["bits"] for one in found["surprises"]]
        assert bits == pytest.approx([-p / math.log(2) for p in expected.log_probabilities])
        assert [one["id"] for one in found["surprises"]] == [*model.tokenize(text), model.eot_id]
    assert local.answer("/score", text=STORY)["scores"] == answer["scores"][:1]


def test_complete(local, model):
    answer = local.answer("/complete", prefix="Once upon a ti", k=3)
    expected = model.complete("Once upon a ti", 3)
    assert [c["text"] for c in answer["candidates"]] == [c.text for c in expected]
    assert answer["candidates"][0]["text"] == "me"
    assert answer["candidates"][0]["probability"] == pytest.approx(expected[0].probability)
    assert local.post("/complete", prefix="x", k=0).status_code == 400


def test_a_page_that_is_missing_says_so(local):
    response = local.ask("GET", "/")
    if response.status_code == 404:
        assert "playground" in response.json()["error"]["message"]
    else:
        assert response.status_code == 200 and b"<html" in response.content.lower()


def test_who_may_ask(serve):
    key = "k" * 32
    local = serve(key=key.encode(), hosts=["model.example"], origins=["https://page.example"])

    def status(path="/v1/models", **headers):
        return local.ask("GET", path, headers=headers).status_code

    good = {"authorization": f"Bearer {key}"}
    assert status(**good) == 200
    assert status() == status(authorization=f"Bearer {key}x") == status(authorization=key) == 401
    assert status("/healthz") == 200 and status("/metrics") == 401
    for host in ("127.0.0.1", "localhost:8000", "[::1]:8000", "10.0.0.7", "MODEL.example:80"):
        assert status(host=host, **good) == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example", "", "localhost.evil"):
        assert status(host=host, **good) == 403, host
    assert status(origin="http://localhost", **good) == 200
    assert status(origin="https://page.example", **good) == 200
    assert status(origin="https://evil.example", **good) == 403
    assert status(origin="null", **good) == 403
    preflight = {"origin": "https://page.example", "access-control-request-method": "POST"}
    response = local.ask("OPTIONS", "/v1/completions", headers=preflight)
    assert response.headers["access-control-allow-origin"] == "https://page.example"
    response = local.ask("GET", "/healthz")
    assert "access-control-allow-origin" not in response.headers
    assert response.headers["x-request-id"].startswith("req_")


def test_without_permission_no_other_page_may_ask(local):
    response = local.ask("GET", "/v1/models", headers={"origin": "https://page.example"})
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("chunked", [False, True])
def test_a_long_body_is_refused_and_not_repeated(serve, chunked):
    local = serve(body_bytes=1000)
    body = json.dumps({"prompt": "secret " * 1000}).encode()

    async def parts():
        for at in range(0, len(body), 100):
            yield body[at : at + 100]

    response = local.ask("POST", "/v1/completions", content=parts() if chunked else body)
    assert response.status_code == 413 and "secret" not in response.text


def test_places_are_bounded(serve, monkeypatch):
    local = serve(most_streams=2, most_waiting=2)
    fields = {"prompt": STORY, "max_tokens": 300, "temperature": 0, "n": 2}
    write, go_on = local.server.scheduler._turn, threading.Event()
    monkeypatch.setattr(local.server.scheduler, "_turn", lambda: go_on.wait(LIMIT) and write())

    async def ask_four():
        asks = [
            asyncio.create_task(local.ask_async("POST", "/v1/completions", json=fields))
            for _ in range(4)
        ]
        for refused, _ in zip(asyncio.as_completed(asks), range(2), strict=False):
            await refused
        go_on.set()  # nothing is written before two are refused
        return await asyncio.gather(*asks)

    responses = local.run(ask_four())
    assert sorted(r.status_code for r in responses) == [200, 200, 429, 429]
    refused = next(r for r in responses if r.status_code == 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert refused.json()["error"]["type"] == "rate_limit_error"
    good = [r.json()["choices"][0]["text"] for r in responses if r.status_code == 200]
    assert good[0] == good[1]
    assert local.metric("itera_refused_total") == 2
    assert local.post("/v1/completions", **(fields | {"n": 5})).status_code == 400


def test_an_answer_that_takes_too_long_ends(serve):
    local = serve(timeout=0.05)
    fields = {"prompt": STORY, "max_tokens": 4000, "temperature": 1, "n": 100}
    response = local.post("/v1/completions", **fields)
    assert response.status_code == 504 and response.json()["error"]["code"] == "timeout"
    streamed = local.post("/v1/completions", stream=True, **fields)
    assert "data: [DONE]" not in streamed.text and '"code":"timeout"' in streamed.text
    assert local.metric("itera_timeouts_total") == 2
    local.run(local.server.scheduler.finish())  # the places are free again
    assert local.post("/v1/completions", prompt="x", max_tokens=1).status_code == 503


def test_a_bug_shows_no_traceback(serve, monkeypatch, caplog):
    local = serve()
    monkeypatch.setattr(local.server, "_card", lambda: 1 / 0)
    response = local.ask("GET", "/v1/models")
    assert response.status_code == 500
    assert "Traceback" not in response.text and "division" not in response.text
    assert response.json()["error"]["type"] == "server_error"
    assert "division" in caplog.text
    for method in ("_turn", "_start"):  # while texts are written; while one is in no list
        monkeypatch.setattr(local.server.scheduler, method, lambda *_: 1 / 0)
        response = local.post("/v1/completions", prompt="x")
        assert response.status_code == 500 and "division" not in response.text
        monkeypatch.undo()
        assert local.server.scheduler.in_flight == 0
    assert local.post("/v1/completions", prompt="x").status_code == 200


def test_what_was_read_is_not_read_again(serve, model):
    local = serve()
    prompt = greedy(model, STORY, 100)
    n = len(model.tokenize(prompt)) + 1

    def ask(prompt, **fields):
        answer = local.answer("/v1/completions", prompt=prompt, **(GREEDY | fields))
        return [choice["text"] for choice in answer["choices"]]

    def known():
        return local.metric("itera_prefix_tokens_total")

    first = ask(prompt)
    assert known() == 0 and local.metric("itera_prefix_misses_total") == 1
    assert ask(prompt) == first == [greedy(model, prompt)]
    assert known() == n - 1
    longer = prompt + first[0] + " The end came, and"
    assert ask(longer) == [greedy(model, longer)]
    assert known() >= 2 * (n - 1) + 20  # from the end of the first answer
    before = known()
    other = prompt + " But then all of the animals came to the big house."
    assert ask(other, n=3) == [greedy(model, other)] * 3
    assert known() == before + n - 1 + 2 * len(model.tokenize(other))
    assert ask(prompt, repetition_penalty=1.3) == [greedy(model, prompt, repetition_penalty=1.3)]
    assert local.metric("itera_prefix_bytes") <= local.server.settings.cache_bytes


def test_the_cache_is_bounded(model):
    states = [model.state(STORY) for _ in range(5)]
    size = states[0].bytes
    cache = PrefixCache(3 * size + 1000)
    keys = [[i, *range(20)] for i in range(5)]
    for key, state in zip(keys[:3], states, strict=False):
        cache.put(key, state)
    assert cache.longest([*keys[0], 7]) == (21, states[0])  # used: it stays longest
    cache.put(keys[3], states[3])
    assert len(cache) == 3 and 3 * size < cache.bytes <= cache.most_bytes
    assert cache.longest(keys[1]) == (0, None)
    assert cache.longest(keys[0]) == (21, states[0])
    cache.put(keys[0][:10], states[4])
    assert cache.longest(keys[0][:15]) == (10, states[4])
    assert len(cache) == 3
    empty = PrefixCache(0)
    empty.put(keys[0], states[0])
    assert len(empty) == 0


def test_each_of_many_streams_is_the_single_stream_s_text(local, model):
    prompts = [f"{who} {what}" for who in ("Tom", "The cat", "A girl") for what in ("ran", "was")]
    prompts += [greedy(model, prompt, 60) for prompt in prompts]  # long ones, read in parts
    expected = {prompt: greedy(model, prompt, 40) for prompt in prompts}

    async def ask(prompt):
        fields = {"prompt": prompt, "temperature": 0, "max_tokens": 40, "stream": True}
        response = await local.ask_async("POST", "/v1/completions", json=fields)
        events = response.text.split("\n\n")[:-2]
        texts = [json.loads(e.removeprefix("data: "))["choices"][0]["text"] for e in events]
        return prompt, "".join(texts)

    async def ask_all():
        return await asyncio.gather(*(ask(p) for p in prompts * 5))

    for prompt, text in local.run(ask_all()):
        assert text == expected[prompt]


def test_nothing_is_left_behind(model):
    threads = threading.active_count()
    with Local(Server(model, Settings(name=NAME))) as local:
        local.post("/score", text="x")
        local.run(local.server.scheduler.finish())
        assert local.server.scheduler.in_flight == 0 and threading.active_count() > threads
    assert threading.active_count() <= threads


def test_every_field_of_a_request_is_in_the_document():
    document = openapi.document()
    schemas = document["components"]["schemas"]
    assert set(schemas["CompletionRequest"]["properties"]) == set(
        protocol.CompletionRequest.__struct_fields__
    )
    for name in ("ChatRequest", "Message", "TextPart", "StreamOptions"):
        assert schemas[name]["additionalProperties"] == {"type": "null"}
    assert {"ErrorAnswer", "Completion", "ChatChunk"} <= set(schemas)
    assert all(
        "200" in one["responses"] for path in document["paths"].values() for one in path.values()
    )


def test_a_score_that_takes_too_long_ends(serve, monkeypatch):
    local = serve(timeout=0.1)
    go_on = threading.Event()
    monkeypatch.setattr(local.server, "_score", lambda text: go_on.wait(LIMIT))
    try:
        assert local.post("/score", text=["x"] * 100).status_code == 504
        local.server.settings = replace(local.server.settings, timeout=LIMIT)
        assert local.answer("/complete", prefix="Once upon a ti")["candidates"]  # isn't held up
    finally:
        go_on.set()
