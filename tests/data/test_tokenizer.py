"""The tokenizer: every byte comes back, the same text gives the same one, HF agrees."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itera_lite.data import tokenizer as module
from itera_lite.data.tokenizer import EOT, Tokenizer, training_sample
from itera_lite.errors import DataError, UsageError

TEXT = (
    'Once upon a time, there was a little girl named Lily. She said, "I don\'t like it!" '
    "def f(x):\n    return x + 1\n\n\ttab  two   three\r\n naïve café 3.14 中文。\n 🙂🙂\n" * 30
)
TOKENIZER = Tokenizer.train([TEXT, EOT * 20], 360)
mixed = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")),
    st.lists(st.sampled_from([b" the", b"\n", b"\xff", b"\xe4\xb8", b"'s", b"  ", EOT.encode()]))
    .map(b"".join),
)  # fmt: skip


@given(mixed)
@settings(max_examples=300, deadline=None)
def test_every_byte_string_comes_back(raw: bytes) -> None:
    ids = TOKENIZER.encode(raw)
    assert TOKENIZER.decode_bytes(ids) == raw
    assert TOKENIZER.eot_id not in ids
    assert TOKENIZER.decode(ids) == raw.decode("utf-8", "replace")


def test_every_single_byte_has_its_own_id() -> None:
    assert [TOKENIZER.encode(bytes([byte])) for byte in range(256)] == [[b] for b in range(256)]


@given(st.text(alphabet="ab \n\t.'\u3000\x85é1", max_size=200), st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_encoding_in_pieces_changes_no_token(text: str, size: int) -> None:
    whole = TOKENIZER.encode(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE_CHARS", size)
        patch.setattr(module, "_GROUP_CHARS", 3 * size)
        assert TOKENIZER.encode(text) == whole


def test_a_long_text_is_really_cut() -> None:
    assert len(list(module._pieces("word. Next\n" * 10_000))) > 3


def test_the_stream_has_an_eot_after_each_document() -> None:
    documents = [b"", b"one day", b"", b"", b"two days " * 9, b""]
    expected = [i for text in documents for i in [*TOKENIZER.encode(text), TOKENIZER.eot_id]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_PIECE_CHARS", 7)
        parts = list(TOKENIZER.encode_stream(documents))
    assert np.concatenate(parts).tolist() == expected
    assert [len(part) for part in TOKENIZER.encode_stream([])] == [0]


def test_the_special_token_is_not_made_from_text() -> None:
    text = f"a{EOT}b"
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.eot_id not in ids and TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode([*TOKENIZER.encode("a"), TOKENIZER.eot_id]) == "a"


def test_text_from_the_command_line_keeps_its_bytes() -> None:
    assert TOKENIZER.decode_bytes(TOKENIZER.encode(os.fsdecode(b"caf\xe9"))) == b"caf\xe9"
    assert TOKENIZER.decode(TOKENIZER.encode("\ud800x")) == "?x"


def test_batch_equals_single() -> None:
    texts = ["one", b"\xff two", "", "three\n" * 50]
    assert TOKENIZER.encode_batch(texts) == [TOKENIZER.encode(text) for text in texts]


def test_layout_of_ids() -> None:
    assert TOKENIZER.vocab_size == len(TOKENIZER.token_bytes) == 360
    assert TOKENIZER.token_bytes[:256] == [bytes([b]) for b in range(256)]
    assert TOKENIZER.eot_id == 256 and TOKENIZER.token_bytes[256] == b""
    assert len(set(TOKENIZER.token_bytes)) == 360


@pytest.mark.parametrize("asked", [256, 257])
def test_bytes_only(asked: int) -> None:
    plain = Tokenizer.train([], asked)
    assert plain.vocab_size == 257
    assert plain.encode(b"hi\xff") == [104, 105, 255]


def test_compresses() -> None:
    assert len(TOKENIZER.encode(TEXT)) < len(TEXT.encode()) / 2


def test_same_text_same_tokenizer_in_another_process() -> None:
    code = (
        "from itera_lite.data.tokenizer import Tokenizer;"
        "texts = ['the cat sat on the mat %d' % (i % 50) for i in range(500)];"
        "print(Tokenizer.train(texts, 300).sha256)"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "TOKENIZERS_PARALLELISM": parallel},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, parallel in (("1", "true"), ("2", "false"))
    }
    assert len(runs) == 1 and len(runs.pop().strip()) == 64


def test_save_and_load(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        again = Tokenizer.load(place)
        assert again.sha256 == TOKENIZER.sha256
        assert again.token_bytes == TOKENIZER.token_bytes
        assert again.encode(TEXT) == TOKENIZER.encode(TEXT)


def test_the_hash_sees_the_vocabulary() -> None:
    assert Tokenizer.train([TEXT], 340).sha256 != TOKENIZER.sha256


def test_transformers_reads_it_and_agrees(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    TOKENIZER.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = TEXT.replace("\r", "")
    assert theirs(text)["input_ids"] == TOKENIZER.encode(text)
    assert theirs.decode(TOKENIZER.encode(text)) == text
    assert theirs.eos_token_id == theirs.bos_token_id == theirs.pad_token_id == TOKENIZER.eot_id
    assert len(theirs) == TOKENIZER.vocab_size
    theirs.save_pretrained(tmp_path / "theirs")
    assert Tokenizer.load(tmp_path / "theirs").sha256 == TOKENIZER.sha256


@pytest.mark.parametrize("size", [255, 65_537, 0, -1])
def test_size_out_of_range(size: int) -> None:
    with pytest.raises(UsageError, match=r"expected 256 .* to 65,536"):
        Tokenizer.train([TEXT], size)


def test_vocabulary_larger_than_the_text_supports() -> None:
    text = "a little text about a little cat and a little dog " * 3
    with pytest.raises(DataError, match="supports at most") as caught:
        Tokenizer.train([text], 2048)
    supported = int(str(caught.value).split("supports at most ")[1].split(",")[0])
    assert 257 < supported < 2048
    assert Tokenizer.train([text], supported).vocab_size == supported
    with pytest.raises(DataError):
        Tokenizer.train([text], supported + 1)


def test_files_that_are_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a tokenizer\.json"):
        Tokenizer.load(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text("{")
    with pytest.raises(DataError, match="not a readable"):
        Tokenizer.load(file)
    TOKENIZER.save(tmp_path)
    for change in (
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"added_tokens": []},
    ):
        state = {**json.loads(file.read_text()), **change}
        other = tmp_path / "other.json"
        other.write_text(json.dumps(state))
        with pytest.raises(DataError, match="byte-level BPE"):
            Tokenizer.load(other)


def test_training_sample_is_even_and_of_the_size_asked() -> None:
    documents = [bytes([65 + i % 26]) * 1000 for i in range(520)]
    everything, size = training_sample(documents)
    assert list(everything) == documents and size == 520_000
    sample, size = training_sample(documents, 104_000)
    taken = list(sample)
    assert size == 104_000 and abs(sum(map(len, taken)) - size) <= 1000
    assert {text[:1] for text in taken} == {text[:1] for text in documents}
    one, _ = training_sample([b"x" * 1_000_000], 200_000)
    assert 100_000 <= sum(map(len, one)) <= 200_000


LONG = {
    "spaces": "a" + " " * 30_000 + "b",
    "letters": "".join(random.Random(0).choices("ACGT", k=30_000)),
    "characters": "汉字" * 10_000,
    "digits": "x = " + "1234567890" * 3_000,
    "signs": "=" * 30_000 + "!\x1c" * 9_000,
    "lines": "\t\n " * 9_000,
    "odd spaces": "\u180e\u200b\x85\u3000" * 9_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_the_trainer_sees_no_long_words(text: str) -> None:
    pieces = list(module._learnable(f"Some words {text} and more."))
    assert "".join(pieces) == f"Some words {text} and more."
    cut = module._pre_tokenizer().pre_tokenize_str
    assert max(len(word) for piece in pieces for word, _ in cut(piece)) <= module._LEARN_BYTES
    assert len(pieces) < 400  # nor is it cut small


def test_words_that_are_not_long_are_learned_from_whole() -> None:
    for text in (TEXT, "=" * 1_000 + " and " + "word" * 254 + "\n" * 1_000, "汉" * 340):
        assert list(module._learnable(text)) == list(module._pieces(text))


def test_a_long_word_is_learned_from() -> None:
    assert Tokenizer.train(["ab" * 200_000], 260).vocab_size == 260


def test_a_failure_in_the_text_comes_through() -> None:
    def documents() -> Iterator[bytes]:
        yield b"text"
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        Tokenizer.train(documents(), 300)


@pytest.mark.parametrize("endless", [True, False], ids=["while reading", "while computing"])
def test_ctrl_c_stops_it(endless: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library computes after the last text isn't waited for."""
    rng = random.Random(0)
    words = " ".join("".join(rng.choices("abcdefgh", k=9)) for _ in range(60_000))
    library = module.tokenizers.Tokenizer
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        """The library's learner, whose computation ends only when the test lets it."""

        def __init__(self, model: Any) -> None:
            self.own = library(model)

        def train_from_iterator(self, texts: Iterator[str], trainer: Any) -> None:
            self.own.pre_tokenizer = self.pre_tokenizer
            self.own.train_from_iterator(texts, trainer=trainer)
            may_end.wait(60)
            ended.set()

    def documents() -> Iterator[str]:
        yield words
        while endless:
            yield "more "

    seen: list[int] = []

    def progress(n_bytes: int) -> None:
        seen.append(n_bytes)
        if n_bytes >= len(words):
            began.set()

    def press() -> None:
        began.wait()
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(module.tokenizers, "Tokenizer", Slow)
    presser = threading.Thread(target=press, daemon=True)
    presser.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            Tokenizer.train(documents(), 65_536, progress)
        assert not ended.is_set()
    finally:
        may_end.set()
    presser.join()
    assert seen == sorted(seen) and seen[-1] >= len(words)
