"""Streams that are advanced together: each text is the single one's, and nobody waits for long."""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from itera_lite import _engine
from itera_lite.engine import Model
from itera_lite.errors import ModelFileError, UsageError


def tokens_of(model: Model, n: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(model.tokenize("abcdefgh "), k=n)


@pytest.mark.parametrize("max_rows", [1, 3, 16, 64])
def test_streams_that_join_and_leave_write_their_own_texts(max_rows: int, engine: Model) -> None:
    choice = random.Random(max_rows)
    letters = dict.fromkeys(engine.tokenize("abcdefgh "), 1000.0)
    jobs: list[dict[str, Any]] = [
        {
            "prompt": tokens_of(engine, choice.choice((1, 2, 5, 30, 150)), seed=i),
            "max_tokens": choice.randrange(1, 25),
            "temperature": choice.choice((0.0, 0.0, 1.2)),
            "stop": ["ef", "gg"],
            "logit_bias": letters,
            "seed": i,
            "top_log_probabilities": i % 3,
        }
        for i in range(25)
    ]
    alone = [engine.generate(**job) for job in jobs]
    assert len({one.finish_reason for one in alone}) == 2
    batch = engine.batch(max_rows)
    texts = [b""] * len(jobs)
    streams: list[_engine.Stream] = []
    away: set[int] = set()  # those that skip this step
    while len(streams) < len(jobs) or not all(stream.done for stream in streams):
        if len(streams) < len(jobs) and choice.random() < 0.4:
            streams.append(engine.start(**jobs[len(streams)]))
        away = {i for i in range(len(streams)) if choice.random() < 0.2}
        here = [i for i in range(len(streams)) if i not in away]
        choice.shuffle(here)
        for i, piece in zip(here, batch.step([streams[i] for i in here]), strict=True):
            texts[i] += piece
    for one, text, stream in zip(alone, texts, streams, strict=True):
        assert one.text == text.decode("utf-8", "replace")
        assert one.token_ids == stream.tokens
        assert one.log_probabilities == stream.log_probabilities
        assert one.top_log_probabilities == stream.top_log_probabilities
        assert (one.finish_reason, "") == (stream.finish_reason, stream.error)
    assert batch.step(streams) == [b""] * len(jobs)
    assert batch.step([]) == []


def test_a_run_is_many_steps(engine: Model) -> None:
    jobs: list[dict[str, Any]] = [
        {"prompt": tokens_of(engine, 20 * i + 1), "max_tokens": 5 + i, "seed": i} for i in range(6)
    ]
    alone = [engine.generate(**job) for job in jobs]
    batch, streams = engine.batch(), [engine.start(**job) for job in jobs]
    pieces, done = batch.run(streams[:1], 0.0)  # a step
    texts = [*pieces, b"", b"", b"", b"", b""]
    assert done == [False] and len(streams[0].tokens) == 1
    pieces, done = batch.run(streams, 3600.0, until_one=True)
    assert 1 <= sum(done) < 6
    texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
    pieces, done = batch.run(streams, 3600.0)  # ends with the last text
    assert done == [True] * 6
    for one, text, piece in zip(alone, texts, pieces, strict=True):
        assert (text + piece).decode("utf-8", "replace") == one.text
    assert batch.run(streams, 1.0) == ([b""] * 6, [True] * 6)
    assert batch.run([], 1.0) == ([], [])


def test_the_end_of_a_document_has_a_log_probability(engine: Model) -> None:
    bias = {engine.eot_id: 1000.0}
    stream = engine.start("abc", logit_bias=bias, top_log_probabilities=2)
    assert stream.end is None
    while not stream.done:
        stream.next()
    assert stream.tokens == [] and stream.finish_reason == "stop"
    first = [] if engine.bos_id is None else [engine.bos_id]
    score = engine.token_scores([*first, *engine.tokenize("abc"), engine.eot_id], top=2)[-1]
    assert stream.end is not None
    value, top = stream.end
    assert value == pytest.approx(score.log_probability, abs=1e-5)
    assert [token for token, _ in top] == [token for token, _ in score.top]
    assert len(engine.state_of(stream)) == len(first) + 3
    assert (
        engine.token_bytes(engine.eot_id) == b""
        and engine.token_bytes(engine.tokenize("a")[0]) == b"a"
    )
    written = engine.start("abc", max_tokens=1, log_probabilities=True, ignore_end=True)
    written.next()
    assert written.end is None and len(engine.state_of(written)) == len(first) + 3


def test_a_long_prompt_holds_up_nobody(engine: Model) -> None:
    rows = 16
    batch = engine.batch(rows)
    writer = engine.start("a", max_tokens=200, ignore_end=True, seed=1)
    batch.step([writer])
    long = engine.start(tokens_of(engine, 200), max_tokens=5, ignore_end=True)
    short = engine.start(tokens_of(engine, 10), max_tokens=5, ignore_end=True)
    streams = [writer, long, short]
    for step in range(1, 40):
        before = [stream.state().length for stream in streams]
        batch.step(streams)
        read = [s.state().length - n for s, n in zip(streams, before, strict=True)]
        assert len(writer.tokens) == 1 + step, "it writes in every step"
        if not long.tokens:
            assert sum(read) <= rows
            assert sum(read) == rows or long.tokens, "no row is left unused"
        if not short.tokens:
            assert abs(read[1] - read[2]) <= 1, "prompts get equal parts"
    assert len(long.tokens) == len(short.tokens) == 5


def test_prompts_are_read_even_where_many_write(engine: Model) -> None:
    """A quarter of a pass is theirs at least."""
    rows = 8
    batch = engine.batch(rows)
    options: dict[str, Any] = {"max_tokens": 100, "ignore_end": True, "temperature": 0}
    writers = [engine.start("a", **options) for _ in range(3 * rows)]
    while not all(writer.tokens for writer in writers):
        batch.step(writers)
    waiting = engine.start(tokens_of(engine, 40), **options)
    for _ in range(math.ceil(41 / 2)):
        batch.step([*writers, waiting])
    assert waiting.tokens


def test_an_error_ends_one_stream_alone(engine: Model) -> None:
    nothing = dict.fromkeys(range(engine.vocab_size), -math.inf)
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0, "ignore_end": True}
    good = [engine.start("ab", **options), engine.start("c", **options)]
    bad = engine.start("ab", logit_bias=nothing, **options)
    batch = engine.batch()
    texts = [b"", b""]
    while not all(stream.done for stream in good):
        first, none, second = batch.step([good[0], bad, good[1]])
        assert none == b""
        texts = [texts[0] + first, texts[1] + second]
    for text, prompt in zip(texts, ("ab", "c"), strict=True):
        assert text.decode("utf-8", "replace") == engine.generate(prompt, **options).text
    assert bad.done and bad.finish_reason == "" and bad.tokens == []
    assert "the greatest logit is -inf" in bad.error
    assert [stream.error for stream in good] == ["", ""]
    with pytest.raises(ModelFileError, match="the greatest logit is -inf"):
        engine.generate("ab", logit_bias=nothing, **options)
    with pytest.raises(ModelFileError, match="the greatest logit is -inf"):
        _engine.finish([engine.start("a", **options), bad])
    pieces = engine.generate("ab", logit_bias=nothing, stream=True, **options)
    with pytest.raises(ModelFileError):
        next(pieces)
    assert list(pieces) == [], "the stream has ended"


def test_wrong_streams_and_sizes_are_said(engine: Model, gguf_pair: dict[str, Path]) -> None:
    batch = engine.batch()
    stream = engine.start("a", max_tokens=3)
    with pytest.raises(UsageError, match="one stream twice"):
        batch.step([stream, stream])
    other = Model.load(gguf_pair["itera_lite_test"]).start("a", max_tokens=3)
    with pytest.raises(UsageError, match="streams of several models"):
        batch.step([stream, other])
    with pytest.raises(UsageError, match="streams of another model"):
        batch.step([other])
    for rows in (0, -1, 1025, "many"):
        with pytest.raises(UsageError, match="max_rows="):
            engine.batch(rows)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_rows=0: expected 1 to 1024"):
        _engine.Batch(engine._engine, 0)
    assert stream.tokens == [] and not stream.done


def test_streams_that_nothing_else_holds_are_refused(engine: Model) -> None:
    class Fleeting(list[_engine.Stream]):
        """Makes its streams as it is read."""

        def __iter__(self) -> Iterator[_engine.Stream]:
            yield from (engine.start("a", max_tokens=3) for _ in range(2))

    for use in (engine.batch().step, _engine.finish):
        with pytest.raises(UsageError, match="no stream"):
            use(Fleeting())


def test_a_batch_and_a_completer_outlive_the_name_of_their_model(itera_file: Path) -> None:
    batch = Model.load(itera_file).batch()
    completer = Model.load(itera_file).completer()
    assert batch.step([]) == []
    assert isinstance(completer.complete("some te"), list)
