"""Completions are those of a search through every path of tokens; what is kept changes nothing."""

import random
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from itera_lite.config import preset
from itera_lite.engine import Completer, Model, State
from itera_lite.engine.find import BOX
from itera_lite.errors import UsageError
from tests.engine.conftest import Export
from tests.export.models import VOCAB

WORD = rb"[0-9A-Za-z_\x80-\xff]"
CASES = [  # prefix: what of it stays, what is taken back
    ("return the h", "return the", " h"),
    ("return the ", "return the", " "),
    ("x = sel", "x =", " sel"),
    ("it doesn't", "it doesn", "'t"),
    ("a\n", "a", "\n"),
    ("def f(self):", "def f(self", "):"),
    ("h", "", "h"),
    ("", "", ""),
]


def outcome(text: bytes, begun: bool, lines: bool) -> tuple[str, bytes]:
    """What bytes after the prefix are: ``dead``, ``open``, or ``ended`` with the completion."""
    if lines:
        line, end, _ = text.partition(b"\n")
        return ("ended" if end else "open", line)
    match = re.match(WORD + b"*" if begun else b" *" + WORD + b"*", text)
    assert match
    if match.end() == len(text):
        return "open", text
    is_word = begun or re.search(WORD, match[0])
    return ("ended" if is_word else "dead", match[0])


def exhaustive(
    model: Model, kept: str, typed: bytes, begun: bool, lines: bool, depth: int
) -> dict[bytes, float]:
    """The probability of every completion, by following every path of tokens.

    Args:
        depth: tokens of a path after those that write what was typed, at most.
    """
    pieces = [model._engine.decode([token]) for token in range(model.vocab_size)]
    found: dict[bytes, float] = defaultdict(float)
    covered = 0.0 if typed else 1.0

    def walk(state: State, logits: np.ndarray, p: float, left: bytes, text: bytes, n: int) -> None:
        nonlocal covered
        x = logits.astype(np.float64)
        probability = p * np.exp(x - x.max()) / np.exp(x - x.max()).sum()
        for token, piece in enumerate(pieces):
            q = float(probability[token])
            if token == model.eot_id:
                if not left and (begun or lines or re.search(WORD, text)):
                    found[text] += q
            elif not piece:
                continue
            elif left and len(piece) < len(left):
                if left.startswith(piece):
                    go_on(state, token, q, left[len(piece) :], text, n)
            elif piece.startswith(left):
                covered += q if left else 0
                longer = text + piece[len(left) :]
                kind, whole = outcome(longer, begun, lines)
                if kind == "ended":
                    found[whole] += q
                elif kind == "open" and (left or n < depth):
                    go_on(state, token, q, b"", longer, n + (not left))

    def go_on(state: State, token: int, p: float, left: bytes, text: bytes, n: int) -> None:
        fork = state.fork()
        walk(fork, fork.feed([token]), p, left, text, n)

    state = model.state()
    walk(state, state.feed(kept), 1.0, typed, b"", 0)
    found.pop(b"", None)
    return {text: p / covered for text, p in found.items()}


@pytest.fixture(scope="module")
def tokens(export: Export) -> Model:
    """A model with random weights, whose tokens are parts of words."""
    return Model.load(export(preset("itera", "pico", VOCAB), "f32"), context=64)


@pytest.mark.parametrize("lines", [False, True], ids=["words", "lines"])
@pytest.mark.parametrize(("prefix", "kept", "typed"), CASES)
def test_every_path_counts_as_in_an_exhaustive_search(
    prefix: str, kept: str, typed: str, lines: bool, tokens: Model
) -> None:
    assert prefix == kept + typed
    depth = int(typed != " ")  # or there are too many paths
    begun = re.search(WORD + rb"\Z", prefix.encode()) is not None
    expected = exhaustive(tokens, kept, typed.encode(), begun, lines, depth)
    completer = tokens.completer()._completer
    found = completer.complete(prefix.encode(), 10**6, lines, width=10**6, depth=depth, least=0.0)
    assert len(found) == len(dict(found)) and all(text for text, _ in found)
    assert [p for _, p in found] == sorted((p for _, p in found), reverse=True)
    np.testing.assert_allclose(
        [dict(found).get(text, 0.0) for text in expected], list(expected.values()), atol=1e-5
    )
    assert sum(p for text, p in found if text not in expected) < 1e-5
    assert len(found) > 5
    assert 0.001 < sum(p for _, p in found) < 1 + 1e-6
    shown = tokens.completer()._completer.complete(
        prefix.encode(), 3, lines, width=10**6, depth=depth, least=0.0
    )
    assert shown == found[:3]


@pytest.fixture(scope="module")
def box() -> Model:
    return Model.load(next(BOX.glob("*.gguf")))


STORY = (
    "Once upon a time, there was a little girl named Lily. She didn't like to play outside.\n"
    'One day, her mom said, "Lily, we\'re going to the park!" Lily was so happy that she jumped.'
)


def test_the_model_in_the_box_completes_a_story(box: Model) -> None:
    best = box.complete("Once upon a t", 3)
    assert best[0].text == "ime" and best[0].probability > 0.9
    assert "e was" not in {c.text for c in best}
    words = [c.text for c in box.complete("Once upon a time, there was a little ", 5)]
    assert len(words) == 5 and "girl" in words
    assert {c.text for c in box.complete("She didn't like to pla", 5)} >= {"y"}
    (line, *_) = box.complete("Once upon a time, there", 2, lines=True)
    assert line.text.startswith(" was") and "\n" not in line.text


@pytest.mark.parametrize("lines", [False, True], ids=["words", "lines"])
def test_the_usual_search_finds_what_a_wide_one_finds(lines: bool, box: Model) -> None:
    missed = 0
    wide = box.completer()._completer
    for end in range(40, len(STORY), 11 if lines else 3):
        text = STORY[:end].encode()
        usual = box.complete(text, 3, lines=lines)
        depth = 30 if lines else 8
        best = wide.complete(text, 3, lines, width=60, depth=depth, least=1e-6)
        if lines:
            missed += not {c.text.encode() for c in usual} & {text for text, _ in best}
            continue
        for one, (other, probability) in zip(usual, best, strict=False):
            if one.text.encode() == other:
                assert one.probability == pytest.approx(probability, rel=0.05, abs=1e-3)
            else:  # two that are nearly as likely, or one of several paths
                missed += abs(one.probability - probability) > 0.01
    assert missed <= 2


def test_what_was_kept_changes_nothing(box: Model) -> None:
    """Typing, going back, jumping elsewhere, and texts longer than the context."""
    small = Model.load(box.path, context=64)
    choice = random.Random(0)
    completer = small.completer()
    odd = "don't  stop!!\n\n\u2003\u2003a—“b” I'll we're \U0001f600\U0001f600x  (self.x_1)\t\tend'"
    sources = [STORY + " " + odd + " " + STORY, odd, 20 * "long_" + " and " + 50 * " " + "x"]
    text = ""
    for step in range(250):
        source = choice.choice(sources)
        kind = choice.random()
        if kind < 0.6:
            text = source[: len(text) + 1] if source.startswith(text) else text + source[step % 7]
        elif kind < 0.85:
            text = text[: -choice.randrange(1, 5)]
        else:
            text = source[: choice.randrange(len(source))]
        k, lines = choice.choice((1, 3)), choice.random() < 0.1
        assert completer.complete(text, k, lines=lines) == small.complete(text, k, lines=lines)


def test_bytes_of_half_a_character_can_be_typed(box: Model) -> None:
    completer = box.completer()
    for text in (b"caf\xc3", b"\xe2\x80", b"\xff", "café".encode(), b"a\0"):
        for found in (completer.complete(text), completer.complete(text, lines=True)):
            assert all(isinstance(c.text, str) and 0 < c.probability <= 1 + 1e-6 for c in found)


def test_half_a_character_that_becomes_whole_changes_the_tokens_before_it(tmp_path: Path) -> None:
    """Two line ends are one piece before half a character, and before a whole one they are two."""
    from tests.native.gguf_bytes import STRING, array
    from tests.native.gguf_models import llama
    from tests.native.gguf_models import tokens as names

    texts = ["ĊĊ" if name == "he" else name for name in names()]
    draft = llama(context=64).set("tokenizer.ggml.tokens", array(STRING, texts))
    draft = draft.set("tokenizer.ggml.merges", array(STRING, ["Ċ Ċ"]))
    (path := tmp_path / "model.gguf").write_bytes(draft.render())
    model = Model.load(path)
    whole = "a\n\n—".encode()
    assert len(model.tokenize(whole[:4])) == 3 and len(model.tokenize(whole)) == 6
    completer = model.completer()
    for end in range(4, 7):
        found = completer.complete(whole[:end])
        assert found == model.complete(whole[:end]) != []


@pytest.mark.parametrize("name", ["itera_lite_test", "transformer_test"])
def test_where_every_token_is_a_byte(name: str, gguf_pair: dict[str, Path]) -> None:
    """Long typed words are written byte by byte, however unlikely they are."""
    model = Model.load(gguf_pair[name])
    found = model.complete("some verylongwordwithoutanyend", 4)
    assert len(found) == 4 and all(c.text for c in found)
    assert sum(c.probability for c in found) < 1
    assert len(model.complete(500 * "ab ", 2)) == 2, "longer than the context of 512"


def test_a_text_that_nothing_begins(tmp_path: Path) -> None:
    from tests.native.gguf_models import llama

    (path := tmp_path / "model.gguf").write_bytes(llama(context=64).render())
    model = Model.load(path)
    assert model.bos_id is None
    with pytest.raises(UsageError, match="an empty text: expected at least one token"):
        model.complete("")
    assert len(model.complete("t", 2)) == 2
    assert len(model.complete(100 * "the ", 2)) == 2


@pytest.mark.parametrize("k", [0, -1, 101, 1.5, "3"])
def test_wrong_numbers_are_said(k: object, engine: Model) -> None:
    with pytest.raises(UsageError, match="k="):
        engine.complete("a", k)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a text is of type int"):
        engine.complete(5)  # type: ignore[arg-type]
    assert isinstance(engine.completer(), Completer)
