"""`itera bench serve`: what clients lose or get wrong is counted, and the record is whole."""

import asyncio
import contextlib
import json
from types import SimpleNamespace

import pytest

from itera_lite.bench import serving
from itera_lite.bench.runtimes import OURS
from itera_lite.bench.serving import load_server, read_answer, request_body
from itera_lite.commands.bench_serve import bench_serve
from itera_lite.errors import UsageError
from itera_lite.records import Serving


def chunked(*parts: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def event(text: str) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "text": text}]}).encode() + b"\n\n"


USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 7}}\n\n'
DONE = b"data: [DONE]\n\n"


def test_an_answer_is_read_in_any_pieces():
    whole = event("Once ") + event("\u2603 upon") + USAGE + DONE
    for size in (1, 3, 1000):
        parts = [whole[at : at + size] for at in range(0, len(whole), size)]
        found = read_answer(chunked(*parts), 0.5, True)
        assert (found.text, found.tokens) == ("Once \u2603 upon", 7)
        assert (found.first, found.whole) == (0.5, True)
    assert read_answer(chunked(event("a"), event("b"), DONE), 0, True).tokens == 2
    assert not read_answer(chunked(event("a")), 0, True).whole  # without its end
    assert not read_answer(chunked(whole), 0, False).whole  # the connection was lost
    refused = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}"
    assert not read_answer(refused, 0, True).whole


def test_losses_and_wrong_texts_are_counted(monkeypatch):
    """By a server that gives a right text, a wrong one and none, in turns; and by a clock that
    shows how many there were."""
    turns = 0
    monkeypatch.setattr(serving, "time", SimpleNamespace(perf_counter=lambda: turns))

    class Bad(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport

        def data_received(self, data):
            nonlocal turns
            turns += 1
            text = ("right", "wrong", "")[turns % 3]
            if text:
                self.transport.write(chunked(event(text), DONE))
            else:
                self.transport.close()

    async def measure():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Bad, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        bodies = {"x": request_body("x", 5)}
        async with server:
            return await load_server(port, bodies, {"x": "right"}, streams=1, seconds=30)

    found = asyncio.run(measure())
    assert (found.lost, found.different, found.requests) == (10, 10, 20)
    assert len(found.first) == found.requests and found.seconds == 30
    assert found.tokens == found.requests


def test_the_record_of_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(serving, "ROUND_SECONDS", 0.3)
    monkeypatch.setattr(serving, "TOGETHER", 4)
    monkeypatch.setattr(serving, "PROMPTS", 6)
    record = bench_serve(
        streams=12, seconds=0.5, rounds=3, max_tokens=12, peers=False, results=tmp_path
    )
    (path,) = tmp_path.iterdir()
    assert path.name == f"{record.name}_serving.json" and Serving.read(path) == record
    together, crowd = record.loads
    assert [one.streams for one in record.loads] == [4, 12]
    assert {one.runtime for one in record.loads} == {OURS}
    for one in record.loads:
        assert one.requests > 0 and (one.lost, one.different) == (0, 0)
        assert 0 < one.first_token_ms_p50 <= one.first_token_ms_p99
    ratio, lost = record.targets
    expected = together.tokens_per_second.median / record.engine.median
    assert ratio.value == pytest.approx(expected) and lost.verdict == "met"
    assert crowd.tokens_per_second.repeats == 1 and record.engine.repeats == 3
    assert list(record.provenance.checkpoints) == [record.name]
    assert "bare engine" in capsys.readouterr().out


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="name a GGUF file"), contextlib.chdir(tmp_path):
        bench_serve(tmp_path)
