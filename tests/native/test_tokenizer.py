"""The engine's tokenizer gives the ids of the Python one, and refuses what it can't repeat."""

import random
import sysconfig
import threading
import time
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, pre_tokenizers

from itera_lite import _engine
from itera_lite.data.tokenizer import EOT, Tokenizer
from itera_lite.errors import IteraError
from tests.native.gguf_bytes import I32, STRING, U32, Draft, array, scalar
from tests.native.gguf_models import byte_characters

LIBRARY = Path(sysconfig.get_path("stdlib"))
PROSE = (
    "Once upon a time there was a girl who didn't like it; they're here, we've seen. I'll go!\n"
    "naïve café 3.14 №½ 中文。日本語 Ελληνικά 🙂🙂\u3000\u00a0 x\r\n\t\ttab  two   three\n\n\n" * 30
)
BYTES = byte_characters()


def draft_of(tokenizer: Tokenizer) -> Draft:
    """The tokenizer as metadata of a GGUF file, written without the exporter."""
    tokens, merges = tokenizer.vocabulary()
    kinds = [3 if i == tokenizer.eot_id else 1 for i in range(len(tokens))]
    return Draft(
        keys=[
            ("general.architecture", scalar(STRING, "llama")),
            ("tokenizer.ggml.model", scalar(STRING, "gpt2")),
            ("tokenizer.ggml.pre", scalar(STRING, "gpt-2")),
            ("tokenizer.ggml.tokens", array(STRING, tokens)),
            ("tokenizer.ggml.token_type", array(I32, kinds)),
            ("tokenizer.ggml.merges", array(STRING, merges)),
            ("tokenizer.ggml.eos_token_id", scalar(U32, tokenizer.eot_id)),
        ]
    )


def with_merges(merges: list[tuple[str, str]], seed: int = 0) -> Tokenizer:
    """A Python tokenizer of these merges, its ids in any order."""
    tokens = [*BYTES, EOT, *dict.fromkeys(left + right for left, right in merges)]
    ids = random.Random(seed).sample(range(len(tokens)), len(tokens))
    vocab = dict(zip(tokens, ids, strict=True))
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens([AddedToken(EOT, special=True, normalized=False)])
    return Tokenizer(backend)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizers")


def engine_of(tokenizer: Tokenizer, folder: Path) -> "_engine.Tokenizer":
    file = folder / "tokenizer.gguf"
    file.write_bytes(draft_of(tokenizer).render())
    return _engine.Tokenizer(str(file))


Pair = tuple[Tokenizer, "_engine.Tokenizer"]


@pytest.fixture(scope="module")
def pair(folder: Path) -> Pair:
    """A tokenizer trained on code and prose of several scripts, both ways."""
    code = [file.read_bytes() for file in sorted(LIBRARY.glob("*.py"))[:60]]
    tokenizer = Tokenizer.train([PROSE, *code, EOT * 20], 2048)
    return tokenizer, engine_of(tokenizer, folder)


def assert_same(pair: Pair, raw: bytes) -> None:
    ids = pair[1].encode(raw)
    assert ids == pair[0].encode(raw)
    assert pair[1].decode(ids) == raw


def test_sizes_and_end_of_text(pair: Pair) -> None:
    tokenizer, engine = pair
    assert (engine.size, engine.eot) == (tokenizer.vocab_size, tokenizer.eot_id)
    everything = [engine.decode([i]) for i in range(engine.size)]
    assert everything == tokenizer.token_bytes
    assert engine.encode(b"") == [] and engine.decode([]) == b""


# Text that looks like language, so that merges, spaces and borders meet in all ways.
FRAGMENTS = [
    *("the", " the", "'s", "'S", "'re", "'ll", "'", "''", " '", "don't", "I'd've", "\n", "\r\n"),
    *(" ", "  ", "\t", "\u00a0", "\u3000", "\u0085", "\u2028", "\x1c", "\u200b", "\ufeff", "\0"),
    *(
        "1",
        " 23",
        "½",
        "①",
        "é",
        "e\u0301",
        "日本",
        "🙂",
        "👩‍👩‍👧",
        "_",
        "!",
        " ...",
        "\u0345",
        EOT,
    ),
]
language = st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join)
broken = st.sampled_from([b"\xff", b"\xe4\xb8", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])
mixed = st.one_of(
    st.binary(max_size=80),
    st.text(max_size=80).map(str.encode),
    language.map(str.encode),
    st.lists(st.one_of(language.map(str.encode), broken, st.binary(max_size=4))).map(b"".join),
)


@given(mixed)
@settings(max_examples=1500, deadline=None)
def test_any_bytes_give_the_same_ids(pair: Pair, raw: bytes) -> None:
    assert_same(pair, raw)


@pytest.mark.parametrize(
    "raw",
    [
        b" ",
        b"  ",
        b"\n\n ",
        b" \xff",
        b"  \xff a",
        b"\xe2\x82",
        b"a\xe2\x82",
        b"\xf0\x9f\x99a\xf0\x9f\x99\x82",
        b"\xf8\x88\x80\x80\x80",
        b"\xef\xbf\xbf\xf4\x8f\xbf\xbf",
        b"it's 'tis '' 'll 'LL 'v 're'r",
        b"'",
        b"'r",
        b"'\xff",
        b" 's",
        b"!'s",
        b"a\xc2\x85\xc2\x85b",
        b"\xe1\xa0\x8e\xe2\x80\x8b \xef\xbb\xbf",
        b"3.14e-10 \xc2\xbd\xc2\xb2",
        (EOT * 3).encode(),
        b" " * 500 + b"x",
        b"\t" * 500,
        bytes(range(256)) * 3,
        b"a" * 10_000,
        b"ab" * 5_000,
        " naïve".encode() * 2_000,
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_awkward_strings(pair: Pair, raw: bytes) -> None:
    assert_same(pair, raw)


def test_real_files(pair: Pair) -> None:
    files = [*sorted(LIBRARY.glob("*.py"))[60:120], *sorted(LIBRARY.glob("encodings/*.py"))[:20]]
    assert len(files) > 50
    for file in files:
        assert_same(pair, file.read_bytes())


def test_every_character_is_cut_from_its_neighbours_as_by_the_package(folder: Path) -> None:
    """Each follows a letter, a number and a sign, with which its first byte would merge."""
    leads = [*range(0x80), *range(0xC2, 0xF5)]
    tokenizer = with_merges([(sample, BYTES[lead]) for sample in "a5!" for lead in leads])
    engine = engine_of(tokenizer, folder)
    for start in range(0, 0x110000, 0x8000):
        points = [p for p in range(start, start + 0x8000) if not 0xD800 <= p < 0xE000]
        text = "".join(f"a{(c := chr(p))}5{c}!{c}" for p in points).encode()
        assert engine.encode(text) == tokenizer.encode(text), f"from U+{start:04X}"


# Bytes at the borders of what UTF-8 allows: surrogates, overlong forms, beyond U+10FFFF, cut ones.
EDGES = b"!a \x80\x8f\x90\x9f\xa0\xbf\xc0\xc1\xc2\xdf\xe0\xe2\xed\xef\xf0\xf4\xf5\xff"


@pytest.fixture(scope="module")
def glue(folder: Path) -> Pair:
    """Merges every pair of these bytes, so that each border between pieces shows."""
    tokenizer = with_merges([(BYTES[one], BYTES[two]) for one in EDGES for two in EDGES])
    return tokenizer, engine_of(tokenizer, folder)


@given(
    st.one_of(
        st.lists(st.sampled_from(EDGES), max_size=30).map(bytes),
        st.lists(st.one_of(broken, st.sampled_from([b"!", b"a", b" "]))).map(b"".join),
    )
)
@settings(max_examples=1000, deadline=None)
def test_bytes_that_are_not_utf8_end_a_piece(glue: Pair, raw: bytes) -> None:
    assert_same(glue, raw)


@given(st.data())
@settings(max_examples=250, deadline=None)
def test_merges_in_any_order_give_the_same_ids(folder: Path, data: st.DataObject) -> None:
    """Two letters make short and long words, overlaps, ties and ranks that fall on the way."""
    tokens, merges = ["a", "b"], []
    for _ in range(data.draw(st.integers(1, 12))):
        pair = (data.draw(st.sampled_from(tokens)), data.draw(st.sampled_from(tokens)))
        if pair not in merges and len("".join(pair)) < 40:
            merges.append(pair)
            tokens.append("".join(pair))
    # Python's needs the parts in the vocabulary, not earlier in the list.
    merges = data.draw(st.permutations(merges))
    tokenizer = with_merges(merges, seed=data.draw(st.integers(0, 9)))
    engine = engine_of(tokenizer, folder)
    for text in data.draw(st.lists(st.text("ab", max_size=150), min_size=4, max_size=4)):
        assert_same((tokenizer, engine), text.encode())
        assert_same((tokenizer, engine), (text * 3).encode())


def test_bytes_only(folder: Path) -> None:
    tokenizer = Tokenizer.train([], 256)
    assert_same((tokenizer, engine_of(tokenizer, folder)), PROSE.encode())


def test_a_word_of_a_megabyte_takes_no_quadratic_time(folder: Path) -> None:
    merges = [("a" * 2**i, "a" * 2**i) for i in range(5)]
    engine = engine_of(with_merges(merges), folder)
    start = time.process_time()  # which other programs don't use
    ids = engine.encode(b"a" * 1_000_000)
    assert len(ids) == 31_250
    assert time.process_time() - start < 20  # a linear scan for each merge: an hour


def test_threads_share_one_tokenizer(pair: Pair) -> None:
    text = PROSE.encode() * 10
    expected, results = pair[0].encode(text), []
    threads = [
        threading.Thread(target=lambda: results.append(pair[1].encode(text))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 4


@pytest.mark.parametrize("ids", [[-1], [0, 300], [2**31 - 1]])
def test_ids_out_of_range_are_refused(folder: Path, ids: list[int]) -> None:
    engine = engine_of(with_merges([("a", "b")]), folder)
    with pytest.raises(IteraError, match=f"token {ids[-1]}: expected 0 to 257"):
        engine.decode(ids)


def replaced(values: list, at: int, value: object) -> list:
    return [*values[:at], value, *values[at + 1 :]]


TOKENS = [*BYTES, EOT, "ab", "abc"]
KINDS = [3 if token == EOT else 1 for token in TOKENS]
MERGES = ["a b", "ab c"]
KEY = "tokenizer.ggml."


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", scalar(STRING, "llama"), "'llama'.*expected 'gpt2'"),
        ("pre", scalar(STRING, "llama-bpe"), "'llama-bpe'.*expected.*'gpt-2'"),
        ("tokens", array(STRING, []), "0 tokens: expected at least 257"),
        ("tokens", array(STRING, replaced(TOKENS, 258, "ab")), "257 and 258 are both 'ab'"),
        ("tokens", array(STRING, replaced(TOKENS, 258, EOT)), "256 and 258 are both"),
        ("tokens", array(STRING, replaced(TOKENS, 258, "a b")), "token 258 is 'a b'.*alphabet"),
        ("tokens", array(STRING, replaced(TOKENS, 258, "日")), "token 258 .*alphabet"),
        ("tokens", array(STRING, replaced(TOKENS, 258, b"a\xc4")), "token 258 .*alphabet"),
        ("tokens", array(STRING, replaced(TOKENS, 258, "")), "token 258 is ''.*at least one"),
        ("tokens", array(STRING, replaced(TOKENS, 10, "zz")), "no token for the byte 10"),
        ("tokens", array(STRING, TOKENS[:-1]), "token_type has 259 entries.* 258 tokens"),
        ("token_type", array(I32, KINDS[:-1]), "token_type has 258 entries.* 259 tokens"),
        ("token_type", array(I32, replaced(KINDS, 7, 3)), "token 7 has the type 3: expected 1"),
        ("token_type", array(I32, replaced(KINDS, 7, 4)), "token 7 has the type 4: expected 1"),
        ("token_type", array(I32, replaced(KINDS, 256, 1)), "token 256 has the type 1: expected 3"),
        ("eos_token_id", scalar(U32, 259), "eos_token_id is 259: expected 0 to 258"),
        ("eos_token_id", scalar(U32, 97), "type"),
        ("merges", array(STRING, ["ab"]), "merge 0 is 'ab': expected two tokens with one space"),
        ("merges", array(STRING, ["a  b"]), "merge 0 .*one space"),
        ("merges", array(STRING, ["a b "]), "merge 0 .*one space"),
        ("merges", array(STRING, ["a b", " ab"]), "merge 1 .*to be tokens"),
        ("merges", array(STRING, ["ab d"]), "merge 0 is 'ab d': .*to be tokens"),
        ("merges", array(STRING, ["abd c"]), "merge 0 .*to be tokens"),
        ("merges", array(STRING, [*MERGES, "a b"]), "merge 2 is 'a b': expected each merge once"),
        ("merges", array(STRING, [f"{EOT} a"]), "merge 0 .*to be tokens"),
    ],
)
def test_a_file_that_is_wrong_is_refused(
    tmp_path: Path, key: str, value: bytes, message: str
) -> None:
    draft = draft_of(with_merges([("a", "b"), ("ab", "c")]))
    draft = draft.set(KEY + "tokens", array(STRING, TOKENS))
    draft = draft.set(KEY + "token_type", array(I32, KINDS))
    draft = draft.set(KEY + "eos_token_id", scalar(U32, 256))
    file = tmp_path / "model.gguf"
    file.write_bytes(draft.render())
    assert _engine.Tokenizer(str(file)).encode(b"abcab") == [258, 257]
    file.write_bytes(draft.set(KEY + key, value).render())
    with pytest.raises(IteraError, match=f"model.gguf: .*{message}"):
        _engine.Tokenizer(str(file))


@pytest.mark.parametrize(
    "key", ["model", "pre", "tokens", "token_type", "merges", "eos_token_id"]
)  # fmt: skip
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(draft_of(with_merges([])).without(KEY + key).render())
    with pytest.raises(IteraError, match=KEY + key):
        _engine.Tokenizer(str(file))


def test_a_merge_that_makes_end_of_text_is_refused(tmp_path: Path) -> None:
    """It would let text end a document."""
    draft = draft_of(with_merges([("<", "|")]))
    tokens = [*BYTES, EOT, "<|endoftext|"]
    kinds = [3 if token == EOT else 1 for token in tokens]
    for key, value in (
        ("tokens", array(STRING, tokens)),
        ("token_type", array(I32, kinds)),
        ("eos_token_id", scalar(U32, 256)),
        ("merges", array(STRING, ["<|endoftext| >"])),
    ):
        draft = draft.set(KEY + key, value)
    file = tmp_path / "model.gguf"
    file.write_bytes(draft.render())
    with pytest.raises(IteraError, match=r"merge 0 .*to be tokens"):
        _engine.Tokenizer(str(file))
