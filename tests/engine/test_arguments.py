"""What callers give the engine from Python: any integer type, wrong types, odd texts."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itera_lite.engine import Model
from itera_lite.errors import ModelFileError, UsageError


def test_numpys_numbers_mean_what_pythons_do(engine: Model) -> None:
    plain: dict[str, Any] = {
        "max_tokens": 12,
        "top_k": 20,
        "temperature": 1.0,
        "top_p": 0.5,
        "repetition_window": 5,
        "repetition_penalty": 1.5,
        "seed": 7,
        "logit_bias": {65: 1.0},
    }
    done = engine.generate("a", **plain)
    for whole, real in ((np.int64, np.float64), (np.uint8, np.float32), (np.int32, np.float16)):
        numpys = {
            "max_tokens": whole(12),
            "top_k": whole(20),
            "temperature": real(1.0),
            "top_p": real(0.5),
            "repetition_window": whole(5),
            "repetition_penalty": real(1.5),
            "seed": whole(7),
            "logit_bias": {whole(65): real(1.0)},
        }
        assert engine.generate("a", **numpys) == done
        assert engine.generate_many(["a"], **numpys) == [done]
    ids = engine.tokenize("some text")
    for kind in (np.int64, np.uint16, np.int32):
        array = np.array(ids, kind)
        assert engine.detokenize(array) == "some text"
        np.testing.assert_array_equal(engine.logits(array), engine.logits(ids))
        np.testing.assert_array_equal(engine.state().feed(array), engine.state().feed(ids))
    texts = ["one", "two"]
    expected = engine.score(texts, window=3, threads=2)
    assert engine.score(texts, window=np.int64(3), threads=np.uint8(2)) == expected
    assert Model.load(engine.path, context=np.int32(64)).context == 64


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, 1.5, "7", np.int64(-1), "enormous"])
def test_a_seed_out_of_its_range_is_said_everywhere(seed: Any, engine: Model) -> None:
    if seed == "enormous":
        seed = 10**5000  # Python doesn't write it in digits
    with pytest.raises(UsageError, match="seed="):
        engine.generate("a", seed=seed)
    with pytest.raises(UsageError, match="seed="):
        engine.generate_many(["a"], seed=seed)


def test_the_greatest_seeds_are_seeds(engine: Model) -> None:
    assert engine.generate("a", seed=2**63 - 1, max_tokens=3)
    first, second = engine.generate_many(["a", "a"], seed=2**63 - 1, max_tokens=9)
    assert second == engine.generate("a", seed=0, max_tokens=9)
    assert first == engine.generate("a", seed=2**63 - 1, max_tokens=9)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_tokens": -5}, "max_tokens=-5: expected 1 or more"),
        ({"max_tokens": "ten"}, "max_tokens='ten': expected a whole number"),
        ({"max_tokens": 2.5}, "max_tokens=2.5: expected a whole number"),
        ({"max_tokens": None}, "max_tokens=None: expected a whole number"),
        ({"top_k": "few"}, "top_k='few'"),
        ({"temperature": "warm"}, "temperature='warm': expected a number"),
        ({"top_p": [1]}, r"top_p=\[1\]: expected a number"),
        ({"stop": ""}, "an empty stop text"),
        ({"stop": b""}, "an empty stop text"),
        ({"stop": ["a", 5]}, "a stop text is of type int: expected a str or bytes"),
        ({"stop": [None]}, "a stop text is None"),
        ({"stop": 5}, "stop is of type int: expected a list"),
        ({"logit_bias": [1]}, "logit_bias is of type list: expected a dict"),
        ({"logit_bias": {"a": 1.0}}, "token 'a': expected an id"),
        ({"logit_bias": {5: "much"}}, "logit_bias='much': expected a number"),
        ({"prompt": 5}, "a text is of type int"),
        ({"prompt": None}, "a text is None"),
        ({"prompt": {"a": 1}}, "a text is of type dict"),
        ({"prompt": ["a"]}, "token 'a': expected an id"),
        ({"prompt": [1, 2**40]}, "token 1099511627776: expected an id"),
        ({"presence_penalty": "much"}, "presence_penalty='much': expected a number"),
        ({"frequency_penalty": 3}, "frequency_penalty=3: expected -2 to 2"),
        ({"top_log_probabilities": 21}, "top_log_probabilities=21: expected 0 to 20"),
        ({"top_log_probabilities": True + 0.5}, "top_log_probabilities=1.5: expected a whole"),
        ({"state": b"saved"}, "state is of type bytes"),
    ],
)
def test_wrong_types_are_said(options: dict[str, Any], told: str, engine: Model) -> None:
    with pytest.raises(UsageError, match=told):
        engine.generate(**options)
    rest = {name: value for name, value in options.items() if name != "prompt"}
    with pytest.raises(UsageError, match=told):
        engine.generate_many([options.get("prompt", "a")], **rest)


def test_one_text_is_not_several_prompts(engine: Model) -> None:
    for wrong in ("abc", b"abc", ""):
        with pytest.raises(UsageError, match="prompts is one text: expected a list"):
            engine.generate_many(wrong)
    for wrong in (None, 5, {"a": 1}):
        with pytest.raises(UsageError, match=r"prompts is .*expected a list"):
            engine.generate_many(wrong)  # type: ignore[arg-type]
    options: dict[str, Any] = {"max_tokens": 3, "seed": 1}
    two = engine.generate_many(["a", "b"], **options)
    assert engine.generate_many((p for p in "ab"), **options) == two  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda m: m.score(["a"], threads=0), "threads=0: expected 1 to 4,096"),
        (lambda m: m.score(["a"], threads=-1), "threads=-1"),
        (lambda m: m.score(["a"], threads=10**9), "threads=1000000000"),
        (lambda m: m.score(["a"], threads=10**30), "threads=1000000000"),
        (lambda m: m.score(["a"], threads="2"), "threads='2'"),
        (lambda m: m.score(["a"], window=0), "window=0"),
        (lambda m: m.score(["a"], window=1.5), "window=1.5"),
        (lambda m: m.score([5]), "a text is of type int"),
        (lambda m: m.score(None), "texts is None"),
        (lambda m: m.tokenize(None), "a text is None"),
        (lambda m: m.detokenize("abc"), "expected token ids"),
        (lambda m: m.detokenize([1.5]), "token 1.5: expected an id from 0"),
        (lambda m: m.detokenize([2**40]), "token 1099511627776"),
        (lambda m: m.logits([-1]), "token -1: expected an id from 0"),
        (lambda m: m.logits([2**70]), "token 1180591620717411303424"),
        (lambda m: m.restore("text"), "a saved state is of type str"),
        (lambda m: Model.load(m.path, context="many"), "context='many'"),
        (lambda m: Model.load(m.path, context=2**40), "context=1099511627776"),
        (lambda m: Model.load(f"{m.path}\0.txt"), "without a NUL character"),
    ],
)
def test_wrong_arguments_are_said(call: Any, told: str, engine: Model) -> None:
    with pytest.raises(UsageError, match=told):
        call(engine)


def test_any_window_is_one(engine: Model) -> None:
    assert engine.score("some text", window=2**70) == engine.score("some text")


def only(engine: Model, letters: str) -> dict[int, float]:
    return {engine.tokenize(letter)[0]: 1000.0 for letter in letters}


@pytest.mark.parametrize("stop", ["ab", "abc", "b", ["zz", "ca"], b"ab"])
def test_the_tokens_end_where_the_text_ends(stop: Any, engine: Model) -> None:
    """Every token is a letter here: those of the stop text are none of the result."""
    options: dict[str, Any] = {
        "max_tokens": 40,
        "temperature": 1.0,
        "logit_bias": only(engine, "abc"),
        "log_probabilities": True,
    }
    stopped = 0
    for seed in range(8):
        whole = engine.generate("x", seed=seed, **options)
        done = engine.generate("x", seed=seed, stop=stop, **options)
        assert engine.detokenize(done.token_ids) == done.text
        assert done.token_ids == whole.token_ids[: len(done.text)]
        assert done.log_probabilities == whole.log_probabilities[: len(done.text)]
        stream = engine.generate("x", seed=seed, stop=stop, stream=True, **options)
        assert ("".join(stream), stream.token_ids) == (done.text, done.token_ids)
        (many,) = engine.generate_many(["x"], seed=seed, stop=stop, **options)
        assert many == done
        stopped += done.finish_reason == "stop"
    assert stopped > 4


def test_a_token_that_reaches_into_the_stop_text_stays(tmp_path: Path) -> None:
    from tests.native.gguf_models import llama

    (path := tmp_path / "model.gguf").write_bytes(llama(context=64).render())
    model = Model.load(path)
    the = 259  # " the"
    options: dict[str, Any] = {"temperature": 0, "max_tokens": 5, "logit_bias": {the: 1e4}}
    done = model.generate("x", stop="he", **options)
    assert (done.text, done.token_ids, done.finish_reason) == (" t", [the], "stop")
    done = model.generate("x", stop=" the", **options)
    assert (done.text, done.token_ids) == ("", [])
    done = model.generate("x", stop="e the t", **options)
    assert (done.text, done.token_ids) == (" th", [the])


@pytest.mark.parametrize(
    ("prompt", "raw"),
    [
        ("a\0b", b"a\0b"),
        (b"a\0\xff\xfe", b"a\0\xff\xfe"),
        (os.fsdecode(b"a\xff"), b"a\xff"),  # as the system gives an argument
        ("a\ud800b", b"a\xef\xbf\xbdb"),
        ("\udfff\udcff", "\ufffd\ufffd".encode()),
        ("\ud83d\ude00", "😀".encode()),  # both halves
        ("", b""),
    ],
)
def test_any_text_can_be_a_prompt(prompt: Any, raw: bytes, engine: Model) -> None:
    assert engine._engine.decode(engine.tokenize(prompt)) == raw
    options: dict[str, Any] = {"max_tokens": 4, "seed": 2}
    assert engine.generate(prompt, **options) == engine.generate(raw, **options)
    assert engine.score(prompt)[0].bytes == len(raw)
    assert engine.generate("a", stop=prompt or "x", **options)


def test_a_path_need_not_be_utf8(itera_file: Path, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"m\xff.gguf")
    with pytest.raises(ModelFileError, match="can't be opened"):
        Model.load(path)
    try:
        path.write_bytes(itera_file.read_bytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    for given in (path, os.fspath(path), os.fsencode(path)):
        assert Model.load(given).path == path  # type: ignore[arg-type]


def test_what_is_no_gguf_file_says_how_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\x02" + bytes(7) + b"{}" + bytes(64))
    for path, told in (
        (tmp_path / "none.gguf", "No such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "a.safetensors", "is a safetensors file"),
    ):
        with pytest.raises(ModelFileError, match=f"{told}.*expected a GGUF file.*itera export"):
            Model.load(path)
