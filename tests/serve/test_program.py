"""`itera serve` as a program: real clients, signals, and what goes wrong at the start."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest

from itera_lite import cli
from itera_lite.serve import app, run
from itera_lite.serve.app import Settings
from itera_lite.serve.scheduler import Scheduler
from tests.serve.conftest import LIMIT, NAME

STORY = "Once upon a time, there was a"


def greedy(model, prompt, tokens=24):
    return model.generate(prompt, temperature=0, max_tokens=tokens).text


def eventually(true):
    """Wait until a condition holds."""
    end = time.monotonic() + LIMIT
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
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=True)
    *events, last, empty = done.stdout.split("\n\n")
    assert (last, empty) == ("data: [DONE]", "")
    texts = [json.loads(event.removeprefix("data: "))["choices"][0]["text"] for event in events]
    assert "".join(texts) == greedy(model, STORY, 8)


END = "256"  # <|endoftext|> of the model in the box


MOST_TEXTS = 256  # of a request: 2 million tokens, which take longer than any test here


def long_request(**more: Any) -> dict[str, Any]:
    """A text that goes on for as long as the context allows: a fraction of a second."""
    fields = {"prompt": STORY, "max_tokens": 8000, "temperature": 1, "logit_bias": {END: -100}}
    return fields | more


def test_a_client_that_goes_away_frees_its_places(start):
    with start("--max-streams", "2") as program:
        for streamed in (True, False):
            before = program.metric("itera_disconnects_total")
            body = json.dumps(long_request(n=MOST_TEXTS, stream=streamed)).encode()
            lines = ["POST /v1/completions HTTP/1.1", "Host: localhost"]
            lines += [f"Content-Length: {len(body)}", "", ""]
            with socket.create_connection(("127.0.0.1", program.port)) as connection:
                connection.sendall("\r\n".join(lines).encode() + body)
                eventually(lambda: program.active() == 2)
                assert not streamed or connection.recv(12) == b"HTTP/1.1 200"
            eventually(lambda n=before: program.metric("itera_disconnects_total") == n + 1)
            eventually(lambda: program.active() == 0)
        written = program.metric("itera_generated_tokens_total")
        assert written < MOST_TEXTS * 8000, "the places are free before the texts are written"
        assert program.post("/v1/completions", prompt="x", max_tokens=1).status_code == 200


def test_a_signal_lets_what_runs_finish(start):
    with start("--max-streams", "1") as program:
        with httpx.Client(timeout=LIMIT) as kept:
            body = long_request(n=4, stream=True)
            with kept.stream("POST", f"{program.url}/v1/completions", json=body) as response:
                parts = response.iter_text()
                text = next(parts)
                program.process.send_signal(signal.SIGTERM)
                eventually(lambda: "stopping" in program.log.read_text())
                text += "".join(parts)
        assert text.endswith("data: [DONE]\n\n") and text.count('"finish_reason":"length"') == 4
        assert program.process.wait(LIMIT) == 0
        assert "what runs is finished" in program.log.read_text()
        with pytest.raises(httpx.ConnectError):
            program.get("")


def test_a_second_signal_ends_at_once(start):
    with start("--max-streams", "1") as program, ThreadPoolExecutor() as pool:
        asked = pool.submit(program.post, "/v1/completions", **long_request(n=MOST_TEXTS))
        eventually(lambda: program.active() == 1)
        program.process.send_signal(signal.SIGTERM)
        eventually(lambda: "stopping" in program.log.read_text())
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(LIMIT) == 128 + signal.SIGTERM  # 0: all was written
        with pytest.raises(httpx.TransportError):
            asked.result()


def test_a_client_that_reads_nothing_cannot_hold_up_the_end(model, monkeypatch):
    monkeypatch.setattr(app, "GRACE", 0.0)
    monkeypatch.setattr(app.Server, "_make_page", lambda _: bytes(1 << 22))
    ended = threading.Event()

    def ask(address):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            client.connect(address)
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.recv(1)  # the server runs, and has more than the system holds for the client
            os.kill(os.getpid(), signal.SIGTERM)
            return ended.wait(LIMIT)

    with ThreadPoolExecutor() as pool, run.bind("127.0.0.1", 0) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)  # of each connection
        asked = pool.submit(ask, listening.getsockname())
        run.run(model, Settings(name=NAME, timeout=0.1), listening, "ready")
        ended.set()
    assert asked.result(), "it ended while the client was there"


def test_a_signal_before_the_app_has_started_ends_it(model, monkeypatch, capfd):
    def start(*given, **options):
        signal.raise_signal(signal.SIGTERM)
        return Scheduler(*given, **options)

    monkeypatch.setattr(app, "Scheduler", start)
    with run.bind("127.0.0.1", 0) as listening:
        run.run(model, Settings(name=NAME), listening, "ready")
    out, err = capfd.readouterr()
    assert out == "" and "stopping" in err


def test_why_the_app_cannot_start_is_told(model, monkeypatch, caplog):
    def start(*_, **__):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(app, "Scheduler", start)
    with (
        run.bind("127.0.0.1", 0) as listening,
        pytest.raises(RuntimeError, match="can't start new thread"),
    ):
        run.run(model, Settings(name=NAME), listening, "ready")
    assert "Traceback" not in caplog.text


def test_too_many_and_too_long(start):
    options = "--max-streams", "1", "--max-waiting", "255", "--max-body", "2KB", "--timeout", "200"
    with start(*options) as program:
        url, body = f"{program.url}/v1/completions", long_request(n=MOST_TEXTS, stream=True)
        with httpx.stream("POST", url, json=body, timeout=LIMIT) as running:
            parts = running.iter_bytes()  # kept: its end closes the connection
            next(parts)
            refused = program.post("/v1/completions", prompt="x", n=MOST_TEXTS)
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        too_long = program.post("/v1/completions", prompt="secret " * 1000)
        assert too_long.status_code == 413 and "secret" not in too_long.text
        wrong = program.post("/v1/completions", prompt="x", n="two")
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "n"


def test_broken_http_ends_nothing(program):
    for data in (
        b"\x00\xff\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x",
    ):
        with socket.create_connection(("127.0.0.1", program.port)) as connection:
            connection.sendall(data)
    assert program.get("/healthz").json()["status"] == "ok"


def test_log_lines_are_json_and_hold_no_text(program):
    program.post("/v1/completions", prompt="a secret", max_tokens=1)
    program.get("/a-secret?key=secret")
    eventually(lambda: any(line["route"] == "other" for line in program.logged()))
    line = next(x for x in reversed(program.logged()) if x["route"] == "/v1/completions")
    assert set(line) == {"time", "request", "client", "method", "route", "status", "seconds"}
    assert "secret" not in program.log.read_text()


def test_metrics(program):
    eventually(lambda: program.active() == 0)  # of what other tests may have left
    before = program.metric("itera_generated_tokens_total")
    program.post("/v1/completions", **long_request(max_tokens=7))
    assert program.metric("itera_generated_tokens_total") == before + 7
    text = program.get("/metrics").text
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
    for host in ("nowhere.invalid", "a..b"):
        assert "expected an address" in failed(capsys, "--host", host, "--insecure")
    assert "--port 70000" in failed(capsys, "--port", "70000")
    monkeypatch.setattr(run, "find_spec", lambda name: None if name == "uvicorn" else True)
    assert "pip install 'itera-lite[serve]'" in failed(capsys)


def test_a_key_is_needed_beyond_this_machine(start, tmp_path):
    key = tmp_path / "key"
    key.write_text("k" * 20 + "\n")
    with start("--host", "0.0.0.0", "--api-key-file", str(key)) as program:
        local = replace(program, url=f"http://127.0.0.1:{program.port}")
        assert local.get("/v1/models").status_code == 401
        headers = {"authorization": "Bearer " + "k" * 20}
        assert local.ask("GET", "/v1/models", headers=headers).status_code == 200
