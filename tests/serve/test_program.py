"""`itera serve` as a program: real clients, signals, and what goes wrong at the start."""

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from itera_lite import cli
from itera_lite.serve import run

STORY = "Once upon a time, there was a"


def greedy(model, prompt, tokens=24):
    return model.generate(prompt, temperature=0, max_tokens=tokens).text


def eventually(true, seconds=10.0):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it doesn't become true"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def client(program):
    with openai.OpenAI(base_url=f"{program.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_openai_package(client, model, program):
    assert str(model.eot_id) == END
    (card,) = client.models.list().data
    name = card.id
    assert client.models.retrieve(name).id == name == "itera-lite-tiny-tinystories"
    options: dict[str, Any] = {"model": name, "temperature": 0, "max_tokens": 24}
    answer = client.completions.create(prompt=STORY, logprobs=2, **options)
    assert answer.choices[0].text == greedy(model, STORY)
    assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 24
    assert len(answer.choices[0].logprobs.tokens) == 24
    parts = list(
        client.completions.create(
            prompt=STORY, stream=True, stream_options={"include_usage": True}, **options
        )
    )
    assert "".join(p.choices[0].text for p in parts[:-1]) == greedy(model, STORY)
    assert parts[-1].usage.completion_tokens == 24 and not parts[-1].choices
    messages: Any = [{"role": "user", "content": STORY}]
    chat = client.chat.completions.create(messages=messages, logprobs=True, **options)
    assert chat.choices[0].message.content == greedy(model, STORY)
    assert len(chat.choices[0].logprobs.content) == 24
    deltas = client.chat.completions.create(messages=messages, stream=True, **options)
    text = "".join(part.choices[0].delta.content or "" for part in deltas)
    assert text == greedy(model, STORY)
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(prompt=STORY, best_of=3, **options)
    assert refused.value.param == "best_of" and refused.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4", prompt=STORY)


def test_the_asynchronous_openai_package(program, model):
    prompts = [f"{who} {what}" for who in ("Tom", "A cat", "Lily") for what in ("ran", "saw a")]

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{program.url}/v1", api_key="none") as client:

            async def ask(prompt):
                stream = await client.completions.create(
                    model="itera-lite-tiny-tinystories",
                    prompt=prompt,
                    temperature=0,
                    max_tokens=40,
                    stream=True,
                )
                return "".join([part.choices[0].text async for part in stream])

            return await asyncio.gather(*map(ask, prompts))

    assert asyncio.run(ask_all()) == [greedy(model, prompt, 40) for prompt in prompts]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl isn't installed")
def test_curl(program, model):
    body = json.dumps({"prompt": STORY, "temperature": 0, "max_tokens": 8, "stream": True})
    command = ["curl", "-sN", f"{program.url}/v1/completions", "-H"]
    command += ["Content-Type: application/json", "-d", body]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    *events, last, empty = done.stdout.split("\n\n")
    assert (last, empty) == ("data: [DONE]", "")
    texts = [json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events]
    assert "".join(texts) == greedy(model, STORY, 8)


END = "256"  # <|endoftext|> of the model in the box


def long_request(**more: Any) -> dict[str, Any]:
    """A text that goes on for as long as the context allows."""
    fields = {"prompt": STORY, "max_tokens": 8000, "temperature": 1, "logit_bias": {END: -100}}
    return fields | more


def test_a_client_that_goes_away_frees_its_places(start):
    with start("--max-streams", "2", "--max-waiting", "2") as program:
        url = f"{program.url}/v1/completions"
        for streamed in (True, False):
            before = program.metric("itera_disconnects_total")
            with contextlib.suppress(httpx.ReadTimeout):
                body = long_request(n=4, stream=streamed)
                with httpx.stream("POST", url, json=body, timeout=0.3) as response:
                    assert streamed and next(response.iter_bytes())
            eventually(lambda n=before: program.metric("itera_disconnects_total") == n + 1)
            eventually(lambda: httpx.get(f"{program.url}/healthz").json()["active"] == 0, 1.0)
        assert httpx.post(url, json={"prompt": "x", "max_tokens": 1}).status_code == 200


def test_a_signal_lets_what_runs_finish(start):
    with start("--max-streams", "1") as program, ThreadPoolExecutor() as pool:
        url = f"{program.url}/v1/completions"
        with httpx.Client() as kept:
            body = long_request(stream=True)
            stream = pool.submit(kept.post, url, json=body, timeout=60)
            eventually(lambda: httpx.get(f"{program.url}/healthz").json()["active"] == 1)
            program.process.send_signal(signal.SIGTERM)
            text = stream.result().text
        assert text.endswith("data: [DONE]\n\n") and '"finish_reason":"length"' in text
        assert program.process.wait(10) == 0
        assert "what runs is finished" in program.log.read_text()
        with pytest.raises(httpx.ConnectError):
            httpx.get(program.url)


def test_a_second_signal_ends_at_once(start):
    with start("--max-streams", "1") as program, ThreadPoolExecutor() as pool:
        body = long_request(n=50)  # much longer than the process may take to end
        asked = pool.submit(httpx.post, f"{program.url}/v1/completions", json=body, timeout=60)
        eventually(lambda: httpx.get(f"{program.url}/healthz").json()["active"] == 1)
        program.process.send_signal(signal.SIGTERM)
        eventually(lambda: "stopping" in program.log.read_text())
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(5) == 128 + signal.SIGTERM
        with pytest.raises(httpx.TransportError):
            asked.result()


def test_too_many_and_too_long(start):
    options = "--max-streams", "1", "--max-waiting", "0", "--max-body", "2KB", "--timeout", "30"
    with start(*options) as program, httpx.Client() as other:
        url = f"{program.url}/v1/completions"
        other.get(f"{program.url}/healthz")
        for _ in range(20):  # on a busy machine a text may end before the other client asks
            with httpx.stream("POST", url, json=long_request(stream=True)) as running:
                next(running.iter_bytes())
                refused = other.post(url, json={"prompt": "x"})
            if refused.status_code != 200:
                break
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        too_long = httpx.post(url, json={"prompt": "secret " * 1000})
        assert too_long.status_code == 413 and "secret" not in too_long.text
        wrong = httpx.post(url, json={"prompt": "x", "n": "two"})
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "n"


def test_broken_http_ends_nothing(program):
    for data in (
        b"\x00\xff\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x",
    ):
        with socket.create_connection(("127.0.0.1", program.port)) as connection:
            connection.sendall(data)
    assert httpx.get(f"{program.url}/healthz").json()["status"] == "ok"


def test_log_lines_are_json_and_hold_no_text(program):
    httpx.post(f"{program.url}/v1/completions", json={"prompt": "a secret", "max_tokens": 1})
    httpx.get(f"{program.url}/a-secret?key=secret")
    eventually(lambda: any(line["route"] == "other" for line in program.logged()))
    line = next(x for x in reversed(program.logged()) if x["route"] == "/v1/completions")
    assert set(line) == {"time", "request", "client", "method", "route", "status", "seconds"}
    assert "secret" not in program.log.read_text()


def test_metrics(program):
    before = program.metric("itera_generated_tokens_total")
    httpx.post(f"{program.url}/v1/completions", json=long_request(max_tokens=7))
    assert program.metric("itera_generated_tokens_total") == before + 7
    text = httpx.get(f"{program.url}/metrics").text
    assert 'itera_requests_total{route="/v1/completions",status="200"}' in text
    assert "itera_first_token_seconds_bucket" in text


def failed(capsys, *options: str) -> str:
    assert cli.main(["serve", *options]) in (1, 2)
    return capsys.readouterr().err


def test_what_goes_wrong_at_the_start_is_told(capsys, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is in use" in failed(capsys, "--port", str(port))
    assert "no model at" in failed(capsys, str(tmp_path / "none.gguf"), "--port", "0")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    assert "bad.gguf" in failed(capsys, str(tmp_path / "bad.gguf"), "--port", "0")
    assert "a key is needed" in failed(capsys, "--host", "0.0.0.0")
    short = tmp_path / "key"
    short.write_text("short\n")
    assert "at least 16" in failed(capsys, "--host", "0.0.0.0", "--api-key-file", str(short))
    assert "can't be read" in failed(capsys, "--api-key-file", str(tmp_path / "none"))
    assert "expected an origin" in failed(capsys, "--cors-origin", "example.org")
    assert "expected an address" in failed(capsys, "--host", "nowhere.invalid", "--insecure")
    assert "--port 70000" in failed(capsys, "--port", "70000")
    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "uvicorn" else True)
    assert "pip install 'itera-lite[serve]'" in failed(capsys)


def test_a_key_is_needed_beyond_this_machine(start, tmp_path):
    key = tmp_path / "key"
    key.write_text("k" * 20 + "\n")
    with start("--host", "0.0.0.0", "--api-key-file", str(key)) as program:
        url = f"http://127.0.0.1:{program.port}/v1/models"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"authorization": "Bearer " + "k" * 20}).status_code == 200
