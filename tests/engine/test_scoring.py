"""Scores are `itera eval`'s, for texts of any length, in any number of threads."""

import math
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.engine import Model
from itera_lite.engine.find import BOX
from itera_lite.errors import UsageError
from itera_lite.evaluate.bits import score_documents

TEXTS = ["a", "héllo wörld", "x y z " * 7, "long document " * 40, "end."]


@pytest.mark.parametrize("window", [1, 2, 7, 64, 200, 512])
def test_scores_are_those_of_the_evaluation(
    window: int, name: str, engine: Model, tiny_pair: dict[str, Path]
) -> None:
    model, tokenizer = load_checkpoint(tiny_pair[name])
    ours = engine.score(TEXTS, window=window)
    for text, score in zip(TEXTS, ours, strict=True):
        expected = score_documents(model, tokenizer, [text.encode()], seq_len=window)
        assert (score.bytes, score.tokens) == (expected.bytes, expected.tokens)
        assert score.bits_per_byte == pytest.approx(expected.bpb, abs=1e-5)
        assert score.perplexity == pytest.approx(expected.ppl, rel=1e-4)


def test_by_default_the_window_is_the_whole_context(engine: Model) -> None:
    assert engine.score(TEXTS) == engine.score(TEXTS, window=512)
    assert engine.score(TEXTS, window=10**6) == engine.score(TEXTS)
    assert engine.score(TEXTS[3]) != engine.score(TEXTS[3], window=100)


@pytest.mark.parametrize("threads", [2, 3, 64])
def test_threads_change_nothing(threads: int, engine: Model) -> None:
    many = TEXTS * 5
    one = engine.score(many, window=64, log_probabilities=True)
    assert engine.score(many, window=64, log_probabilities=True, threads=threads) == one
    assert one[: len(TEXTS)] == one[-len(TEXTS) :]


@pytest.mark.parametrize("boxed", [False, True])
def test_texts_that_share_a_pass_are_scored_as_if_alone(boxed: bool, engine: Model) -> None:
    """To the last bit, whatever stands beside them, also with quantised weights and caches."""
    model = Model.load(next(BOX.glob("*.gguf"))) if boxed else engine
    lines = [f"Line {i} {'has more words. ' * (i % 7)}" for i in range(60)]
    many = [*lines, "", "a", TEXTS[3], *([""] * 40), TEXTS[2], "x " * 63, "x " * 64, "end"]
    alone = [model.score(text, log_probabilities=True)[0] for text in many]
    assert {score.tokens > 64 for score in alone} == {False, True}
    for threads in (1, 3):
        assert model.score(many, log_probabilities=True, threads=threads) == alone
    assert model.score(many[::-1], log_probabilities=True) == alone[::-1]
    short = [model.score(text, window=5)[0] for text in many]
    assert model.score(many, window=5) == short


def test_log_probabilities_are_those_of_the_logits(engine: Model) -> None:
    (score,) = engine.score("some text", log_probabilities=True)
    row = [engine.eot_id, *engine.tokenize("some text"), engine.eot_id]
    log_p = torch.from_numpy(engine.logits(row[:-1])).double().log_softmax(-1).numpy()
    np.testing.assert_allclose(
        score.log_probabilities, log_p[range(len(row) - 1), row[1:]], atol=1e-5
    )
    assert score.nats == pytest.approx(-sum(score.log_probabilities))
    assert len(score.log_probabilities) == score.tokens == len(row) - 1


def test_entropies_are_those_of_the_logits(engine: Model) -> None:
    """Also in several windows, and whether or not the log-probabilities are kept."""
    (score,) = engine.score("some text", entropies=True)
    row = [engine.eot_id, *engine.tokenize("some text"), engine.eot_id]
    log_p = torch.from_numpy(engine.logits(row[:-1])).double().log_softmax(-1)
    expected = -(log_p.exp() * log_p).sum(-1)
    np.testing.assert_allclose(score.entropies, expected.numpy(), rtol=1e-5)
    assert (score.nats, score.log_probabilities) == (engine.score("some text")[0].nats, [])
    (long,) = engine.score(TEXTS[3], window=64, entropies=True, log_probabilities=True)
    assert len(long.entropies) == len(long.log_probabilities) == long.tokens
    assert engine.score(TEXTS[3], window=64, log_probabilities=True)[0].entropies == []


@pytest.mark.parametrize(
    "text", ["It's “a fine day”, isn't it?", "x9 -- 3.5\tend\n", "ab", "!?", "é"]
)
def test_surprise_is_its_definition(text: str, engine: Model) -> None:
    """Words are runs of letters, digits, apostrophes and bytes beyond ASCII, with the white space
    before them; other marks and the end are words of their own."""
    box = Model.load(next(BOX.glob("*.gguf")))
    for model in (engine, box):
        (score,) = model.score(text, log_probabilities=True)
        nats = [-p for p in score.log_probabilities]
        pieces = [model.token_bytes(i) for i in model.tokenize(text)]
        words: list[float] = []
        for piece, value in zip([*pieces, b""], nats, strict=True):
            if words and re.match(rb"[0-9A-Za-z'\x80-\xff]", piece):
                words[-1] += value
            else:
                words.append(value)
        cubes = sum(n**3 for n in nats) + 0.1 * sum(n**3 for n in words)
        assert score.surprise == pytest.approx((cubes / len(text.encode())) ** (1 / 3))
    assert engine.score("")[0].surprise == 0.0


def test_empty_and_odd_texts(engine: Model) -> None:
    assert engine.score([]) == []
    (empty,) = engine.score("")
    assert (empty.bytes, empty.tokens, empty.bits_per_byte) == (0, 1, 0.0)
    assert empty.nats > 0 and empty.perplexity == pytest.approx(math.exp(empty.nats))
    odd, special = engine.score([bytes(range(256)), "<|endoftext|>"])
    assert odd.bytes == odd.tokens - 1 == 256
    assert special.tokens == 14, "text that looks like a mark is text"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window": 0}, "window=0"),
        ({"window": -3}, "window=-3"),
        ({"threads": 0}, "threads=0"),
        ({"threads": -1}, "threads=-1"),
    ],
)
def test_wrong_options_are_said(options: dict[str, int], told: str, engine: Model) -> None:
    with pytest.raises(UsageError, match=told):
        engine.score("a", **options)  # type: ignore[arg-type]


def test_a_signal_ends_even_a_single_long_text(engine: Model) -> None:
    """Scoring all of it would take minutes, also of processor time, which no other program uses."""

    class Rang(Exception):
        pass

    def ring(*_: object) -> None:
        raise Rang

    before = signal.signal(signal.SIGALRM, ring)
    begin = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(Rang):
            engine.score("a word " * 3_000_000, window=512)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.process_time() - begin < 30


def test_token_scores_are_the_numbers_of_score(engine: Model) -> None:
    text = "some longer text, of more than one pass: " * 3
    (score,) = engine.score(text, log_probabilities=True)
    ids = [engine.eot_id, *engine.tokenize(text), engine.eot_id]
    found = engine.token_scores(ids, top=20)
    assert [one.id for one in found] == ids
    assert found[0].log_probability is None and found[0].top == []
    assert [one.log_probability for one in found[1:]] == score.log_probabilities
    logits = engine.logits(ids[:-1])
    log_p = torch.from_numpy(logits).double().log_softmax(-1).numpy()
    for row, one in zip(range(len(ids) - 1), found[1:], strict=True):
        order = np.lexsort((np.arange(engine.vocab_size), -logits[row]))[:20]
        assert [token for token, _ in one.top] == order.tolist()
        np.testing.assert_allclose([p for _, p in one.top], log_p[row, order], atol=1e-5)
        same = dict(one.top).get(one.id)
        assert same is None or same == one.log_probability
    assert any(dict(one.top).get(one.id) for one in found[1:])
    assert engine.token_scores(ids) == [type(o)(o.id, o.log_probability, []) for o in found]


def test_token_scores_go_on_from_a_state_and_leave_one(engine: Model) -> None:
    ids = [engine.eot_id, *engine.tokenize("a text that is read in parts")]
    whole = engine.token_scores(ids, top=2)
    state = engine.state()
    parts = engine.token_scores(ids[:9], state=state, top=2)
    assert len(state) == 8, "all but the last one are read"
    parts += engine.token_scores(ids[8:20], state=state, top=2)[1:]
    parts += engine.token_scores(ids[19:], state=state, top=2)[1:]
    assert parts == whole and len(state) == len(ids) - 1
    options = {"temperature": 0, "max_tokens": 9}
    stream = engine.start(ids[-1:], state=state, **options)  # type: ignore[arg-type]
    while not stream.done:
        stream.next()
    assert stream.tokens == engine.generate(ids, **options).token_ids
    assert engine.token_scores([5], state=state) == [type(whole[0])(5, None, [])]


@pytest.mark.parametrize(
    ("ids", "options", "told"),
    [
        ([], {}, "no ids: expected at least one"),
        ([-1], {}, "token -1: expected an id"),
        ([1, 9999], {}, "token 9999: expected an id"),
        ([5] * 514, {}, "514 ids after 0 tokens: there is room for 512"),
        ([1, 2], {"top": 21}, "top=21: expected 0 to 20"),
        ([1, 2], {"top": -1}, "top=-1"),
        ([1, 2], {"state": "saved"}, "state is of type str"),
        ("text", {}, "expected token ids"),
    ],
)
def test_wrong_token_scores_are_said(
    ids: list[int], options: dict[str, int], told: str, engine: Model
) -> None:
    with pytest.raises(UsageError, match=told):
        engine.token_scores(ids, **options)  # type: ignore[arg-type]
    assert len(engine.token_scores([5] * 513)) == 513, "the last one isn't read"
