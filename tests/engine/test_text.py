"""Text from the engine: PyTorch's own greedy text, whole characters, stop texts, options."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from itera_lite.checkpoint.folder import load_checkpoint, save_checkpoint
from itera_lite.config import ModelConfig
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.engine import Model
from itera_lite.errors import ModelFileError, UsageError
from itera_lite.export.gguf import export_gguf
from itera_lite.model import LanguageModel
from itera_lite.model.stream import Sampler, stream, stream_ids

PANGRAM = b"The quick brown fox jumps over the lazy dog, and the dog sleeps on the brown box. " * 4
GOLDEN = Path(__file__).parents[1] / "golden" / "greedy.json"


@pytest.mark.parametrize("prompt", ["", "a", "héllo", "x" * 150])
def test_greedy_tokens_are_pytorchs(
    prompt: str, name: str, engine: Model, tiny_pair: dict[str, Path]
) -> None:
    model, tokenizer = load_checkpoint(tiny_pair[name])
    ids = stream_ids(model, tokenizer.encode(prompt), tokenizer.eot_id, Sampler(0))
    expected = list(islice(ids, 100))
    done = engine.generate(prompt, temperature=0, max_tokens=100)
    assert done.token_ids == expected
    assert done.finish_reason == ("length" if len(expected) == 100 else "stop")
    whole = stream(model, tokenizer, prompt, sampler=Sampler(0), max_tokens=100)
    assert done.text == "".join(whole)


@torch.no_grad()
def golden_checkpoint(family: str, folder: Path) -> Path:
    """Weights that any machine and any version of PyTorch makes alike."""
    tokenizer = Tokenizer.train([PANGRAM], 300)
    shape: dict[str, Any] = {
        "itera": {"pattern": "mma", "n_experts": 4, "d_expert": 32, "d_state": 16},
        "transformer": {"pattern": "aa", "d_ff": 96, "n_kv_heads": 2},
    }[family]
    model = LanguageModel(
        ModelConfig(family, vocab_size=tokenizer.vocab_size, d_model=64, **shape)  # type: ignore[arg-type]
    )
    rng = np.random.RandomState(9)  # the old generator: its numbers are promised never to change
    for name, parameter in sorted(model.named_parameters()):
        spread = 0.05 if name == "embedding.weight" else parameter.shape[-1] ** -0.5
        middle = 1.0 if name.endswith(("norm.weight", "mixer.D")) else 0.0
        values = middle + spread * rng.standard_normal(parameter.shape)
        parameter.copy_(torch.from_numpy(values.astype(np.float32)))
    return save_checkpoint(folder / family, model, tokenizer)


@pytest.mark.parametrize("family", ["itera", "transformer"])
def test_the_golden_text(family: str, tmp_path: Path) -> None:
    """What PyTorch wrote once, PyTorch and the engine still write."""
    golden = json.loads(GOLDEN.read_text("utf-8"))[family]
    checkpoint = golden_checkpoint(family, tmp_path)
    model, tokenizer = load_checkpoint(checkpoint)
    ids = stream_ids(model, tokenizer.encode(golden["prompt"]), tokenizer.eot_id, Sampler(0))
    engine = Model.load(export_gguf(checkpoint, "f32").path)
    done = engine.generate(golden["prompt"], temperature=0, max_tokens=len(golden["token_ids"]))
    assert done.token_ids == golden["token_ids"]
    assert done.text == golden["text"]
    assert list(islice(ids, len(golden["token_ids"]))) == golden["token_ids"]
    assert len(set(golden["token_ids"])) > 10, "a text that only repeats would check little"


def only(engine: Model, letters: str) -> dict[int, float]:
    """A bias that leaves nothing but these bytes."""
    return {engine.tokenize(bytes([byte]))[0]: 1000.0 for byte in letters.encode()}


def pieces_of(engine: Model, **options: Any) -> Iterator[str]:
    return engine.generate("x", stream=True, max_tokens=25, temperature=1.0, **options)


@settings(deadline=None)
@given(seed=st.integers(0, 999), stops=st.lists(st.text("abé", min_size=1, max_size=4), max_size=3))
def test_stopped_text_equals_cutting_the_whole(seed: int, stops: list[str], engine: Model) -> None:
    """Every token is a byte here, so that each stop text and each é lies across tokens."""
    options = {"seed": seed, "logit_bias": only(engine, "abé"), "repetition_penalty": 1.3}
    ids = engine.generate("x", max_tokens=25, temperature=1.0, **options).token_ids
    raw = engine._engine.decode(ids)
    assert len(raw) == len(ids)
    cut = len(raw)
    for end in range(len(raw) + 1):  # a byte at a time: the stop text that is complete first
        ended = [end - len(s.encode()) for s in stops if raw[:end].endswith(s.encode())]
        if ended:
            cut = min(ended)
            break
    pieces = list(pieces_of(engine, stop=stops, **options))
    assert all(pieces), "no piece is empty"
    assert "".join(pieces) == raw[:cut].decode("utf-8", "replace")
    done = engine.generate("x", max_tokens=25, temperature=1.0, stop=stops, **options)
    assert done.text == "".join(pieces)
    assert done.finish_reason == ("stop" if cut < len(raw) else "length")


def test_a_single_stop_text_need_not_be_in_a_list(engine: Model) -> None:
    options = {"temperature": 0, "max_tokens": 9, "logit_bias": only(engine, "a")}
    assert engine.generate("x", **options).text == "a" * 9
    assert engine.generate("x", stop="aaa", **options).text == ""


def test_streaming_is_generating_in_pieces(engine: Model) -> None:
    options: dict[str, Any] = {"max_tokens": 30, "seed": 1, "log_probabilities": True}
    stream = engine.generate("a", stream=True, **options)
    assert stream.finish_reason == "" and stream.token_ids == []
    text = "".join(stream)
    done = engine.generate("a", **options)
    assert (text, stream.token_ids, stream.finish_reason, stream.log_probabilities) == (
        done.text,
        done.token_ids,
        done.finish_reason,
        done.log_probabilities,
    )
    assert next(stream, "over") == "over"


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_many_at_once_are_the_single_ones(temperature: float, engine: Model) -> None:
    """More texts than rows of a pass, prompts longer than one too."""
    prompts = ["word " * (i % 20) for i in range(70)]
    options: dict[str, Any] = {
        "max_tokens": 12,
        "temperature": temperature,
        "log_probabilities": True,
        "stop": ["e", "t"],
    }
    together = engine.generate_many(prompts, seed=10, **options)
    for i, prompt in enumerate(prompts):
        assert together[i] == engine.generate(prompt, seed=10 + i, **options)
    assert engine.generate_many([]) == []
    assert len({g.finish_reason for g in together} | {len(g.token_ids) for g in together}) > 1


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    return torch.from_numpy(logits).double().log_softmax(-1).numpy()


def test_log_probabilities_are_the_models_own(engine: Model) -> None:
    """Before temperature, penalty and bias, which only decide what is drawn."""
    done = engine.generate(
        "ab",
        max_tokens=40,
        temperature=2.0,
        top_k=50,
        repetition_penalty=1.5,
        logit_bias={5: 3.0},
        seed=3,
        log_probabilities=True,
    )
    row = [engine.eot_id, *engine.tokenize("ab"), *done.token_ids]
    expected = log_softmax(engine.logits(row))[2:-1]
    expected = expected[range(len(done.token_ids)), done.token_ids]
    np.testing.assert_allclose(done.log_probabilities, expected, atol=1e-5)


def test_the_likeliest_tokens_are_those_of_the_logits(engine: Model) -> None:
    """Before the options of sampling; the chosen token's number is the very same."""
    options: dict[str, Any] = {"max_tokens": 40, "temperature": 1.5, "seed": 3, "top_k": 50}
    options |= {"logit_bias": {5: 3.0}, "ignore_end": True}
    done = engine.generate("ab", top_log_probabilities=20, **options)
    row = [engine.eot_id, *engine.tokenize("ab"), *done.token_ids]
    logits = engine.logits(row)[2:-1]
    expected = log_softmax(logits)
    assert len(done.top_log_probabilities) == len(done.token_ids) == 40
    seen = 0
    for at, top in enumerate(done.top_log_probabilities):
        order = np.lexsort((np.arange(engine.vocab_size), -logits[at]))[:20]
        assert [token for token, _ in top] == order.tolist()
        np.testing.assert_allclose([p for _, p in top], expected[at, order], atol=1e-5)
        if done.token_ids[at] in dict(top):
            seen += 1
            assert dict(top)[done.token_ids[at]] == done.log_probabilities[at]
    assert seen > 5
    fewer = engine.generate("ab", top_log_probabilities=3, **options)
    assert fewer.token_ids == done.token_ids
    assert fewer.log_probabilities == done.log_probabilities
    assert fewer.top_log_probabilities == [top[:3] for top in done.top_log_probabilities]
    plain = engine.generate("ab", log_probabilities=True, **options)
    assert (plain.log_probabilities, plain.top_log_probabilities) == (done.log_probabilities, [])
    stopped = engine.generate("ab", top_log_probabilities=2, stop="e", **options)
    assert len(stopped.top_log_probabilities) == len(stopped.token_ids)


def test_equally_likely_tokens_go_by_their_ids(tmp_path: Path) -> None:
    from tests.native.gguf_models import llama

    draft = llama(kind="f32", context=64)
    (name, embedding), *others = draft.tensors
    assert name == "token_embd.weight"  # which is the output too: all logits are 0
    draft.tensors = [(name, replace(embedding, data=bytes(len(embedding.data)))), *others]
    (path := tmp_path / "model.gguf").write_bytes(draft.render())
    model = Model.load(path)
    done = model.generate("x", max_tokens=2, top_log_probabilities=20, seed=1, ignore_end=True)
    for top in done.top_log_probabilities:
        assert [token for token, _ in top] == list(range(20))
        assert all(p == pytest.approx(-math.log(model.vocab_size)) for _, p in top)


def test_a_prompt_may_be_token_ids(engine: Model) -> None:
    options: dict[str, Any] = {"max_tokens": 12, "temperature": 0}
    ids = engine.tokenize("héllo")
    done = engine.generate("héllo", **options)
    assert engine.generate(ids, **options) == done
    assert engine.generate([engine.eot_id, *ids], **options) == done, "it begins only once"
    assert engine.generate(np.array(ids, np.uint16), **options) == done  # type: ignore[arg-type]
    assert engine.generate_many([ids, "héllo"], **options) == [done, done]
    assert engine.generate([], **options) == engine.generate("", **options)
    assert engine.generate([engine.eot_id], **options) == engine.generate("", **options)
    state = engine.state("a")
    again = engine.generate(ids, state=state, **options)
    assert again == engine.generate("héllo", state=state, **options)
    assert engine.generate(ids, state=engine.start("a").state(), **options).token_ids


def test_penalties_count_what_was_generated(engine: Model) -> None:
    """Of the text alone: the same tokens in the prompt change nothing."""
    letters = only(engine, "ab")
    options: dict[str, Any] = {"max_tokens": 40, "temperature": 0, "logit_bias": letters}
    for penalty in ({"presence_penalty": 2.0}, {"frequency_penalty": 2.0}):
        for prompt in ("ab", "aaaaaaaabbb"):
            text = engine.generate(prompt, **options, **penalty).token_ids
            counts: dict[int, int] = dict.fromkeys(letters, 0)
            row = [engine.eot_id, *engine.tokenize(prompt), *text]
            logits = engine.logits(row)[-len(text) - 1 : -1].astype(np.float64)
            for at, token in enumerate(text):
                left = {
                    one: logits[at, one]
                    - penalty.get("frequency_penalty", 0) * n
                    - penalty.get("presence_penalty", 0) * (n > 0)
                    for one, n in counts.items()
                }
                best = max(left.values())
                assert left[token] == pytest.approx(best, abs=1e-3)
                counts[token] += 1


def test_the_same_seed_gives_the_same_text_and_another_another(engine: Model) -> None:
    texts = {engine.generate("a", temperature=1.0, seed=s).text for s in (1, 1, 2, 3)}
    assert len(texts) == 3
    assert engine.generate("a").text != engine.generate("a").text


def test_a_bias_allows_and_forbids(engine: Model) -> None:
    greedy = engine.generate("a", temperature=0, max_tokens=8).token_ids
    for bias in (-1000.0, -math.inf):
        other = engine.generate(
            "a", temperature=0, max_tokens=8, logit_bias=dict.fromkeys(greedy, bias)
        )
        assert not set(other.token_ids) & set(greedy)
    forever = engine.generate("a", logit_bias={engine.eot_id: 1000.0})
    assert (forever.text, forever.finish_reason) == ("", "stop")
    never = engine.generate("a", logit_bias={engine.eot_id: 1000.0}, ignore_end=True, max_tokens=9)
    assert (len(never.token_ids), never.finish_reason) == (9, "length")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"temperature": -1.0}, "temperature=-1"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": -1}, "top_k=-1"),
        ({"top_p": 0.0}, "top_p=0"),
        ({"min_p": -0.1}, "min_p=-0.1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0"),
        ({"repetition_window": -1}, "repetition_window=-1"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"max_tokens": 1 << 70}, "room for 512"),
        ({"presence_penalty": -2.5}, "presence_penalty=-2.5: expected -2 to 2"),
        ({"frequency_penalty": math.nan}, "frequency_penalty=nan"),
        ({"top_log_probabilities": -1}, "top_log_probabilities=-1"),
        ({"stop": ["a", ""]}, "empty stop text"),
        ({"logit_bias": {-1: 1.0}}, "token -1"),
        ({"logit_bias": {257: 1.0}}, "token 257: expected an id from 0 to 256"),
        ({"logit_bias": {5: math.nan}}, "nan"),
        ({"prompt": "x" * 512}, "a text of 513 tokens"),
    ],
)
def test_wrong_options_are_said(options: dict[str, Any], told: str, engine: Model) -> None:
    with pytest.raises(UsageError, match=told):
        engine.generate(**options)
    with pytest.raises(UsageError, match=told):  # at once, not with the first piece
        engine.generate(**options, stream=True)
    rest = {name: value for name, value in options.items() if name != "prompt"}
    with pytest.raises(UsageError, match=told):
        engine.generate_many([options.get("prompt", "a")], **rest)


def test_a_state_of_another_model_is_refused(gguf_pair: dict[str, Path], engine: Model) -> None:
    for path in gguf_pair.values():
        foreign = Model.load(path).state("abc")
        with pytest.raises(UsageError, match="state of another model"):
            engine.generate("d", state=foreign)
        with pytest.raises(UsageError, match="state of another model"):
            engine.logits([1], foreign)
    with pytest.raises(UsageError, match="empty prompt after a state"):
        engine.generate("", state=engine.state("abc"))


def test_missing_and_foreign_files_are_said(tmp_path: Path, gguf_pair: dict[str, Path]) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(ModelFileError, match=path.name):
            Model.load(path)
    good = gguf_pair["transformer_test"].read_bytes()
    for content in (b"", b"GGUF", b"#!/bin/sh\n" * 99, good[:1000], good[:-1]):
        (file := tmp_path / "bad.gguf").write_bytes(content)
        with pytest.raises(ModelFileError, match=r"bad\.gguf"):
            Model.load(file)


@pytest.mark.parametrize("package", ["itera_lite", "itera_lite.engine"])
def test_importing_is_light(package: str, itera_file: Path) -> None:
    """Neither the import nor writing text brings in PyTorch, or even numpy."""
    code = (
        f"import sys, {package}\nfrom itera_lite.engine import Model\n"
        "Model.load(sys.argv[1]).generate('a', max_tokens=3)\n"
        "sys.exit(sorted({'torch', 'numpy', 'gguf', 'tokenizers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(itera_file)],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
