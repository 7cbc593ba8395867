"""The engine's logits are PyTorch's, however the tokens come in and whatever the instructions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from itera_lite.config import PRESETS, ModelConfig, preset
from itera_lite.engine import Model
from itera_lite.errors import UsageError
from tests.engine.conftest import Export
from tests.export.models import SHAPES, VOCAB, random_model, shape_name
from tests.native.gguf_bytes import F32, encode, scalar
from tests.native.gguf_models import D, hybrid, tokens

TINY = [preset(family, "tiny", VOCAB) for family in PRESETS["tiny"]]
TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0", "mixed"]
IDS = np.random.default_rng(0).integers(0, VOCAB, 150).tolist()  # more than two blocks of 64


@pytest.mark.parametrize("config", SHAPES, ids=shape_name)
def test_f32_logits_are_pytorchs(config: ModelConfig, export: Export) -> None:
    model = Model.load(export(config, "f32"))
    with torch.no_grad():
        expected = random_model(config)(torch.tensor([IDS]))[0].numpy()
    assert expected.std() > 0.1, "the weights must matter"
    np.testing.assert_allclose(model.logits(IDS), expected, atol=1e-4)


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("config", TINY, ids=shape_name)
def test_blocks_and_single_steps_give_the_same_bits(
    config: ModelConfig, type: str, export: Export
) -> None:
    model = Model.load(export(config, type))
    whole = model.logits(IDS)
    assert np.isfinite(whole).all()
    state = model.state()
    for at, token in enumerate(IDS):
        np.testing.assert_array_equal(model.logits([token], state)[0], whole[at], err_msg=f"{at}")
    assert len(state) == len(IDS)
    state, at = model.state(), 0
    for n in (1, 2, 15, 16, 17, 64, 35):
        np.testing.assert_array_equal(model.logits(IDS[at : at + n], state), whole[at : at + n])
        at += n
    assert at == len(IDS)


def test_next_token_probabilities_sum_to_one_and_the_future_is_not_seen(engine: Model) -> None:
    ids = [i % engine.vocab_size for i in IDS]
    logits = engine.logits(ids).astype(np.float64)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose((p / p.sum(-1, keepdims=True)).sum(-1), 1)
    other = engine.logits([*ids[:100], *([7] * 50)])
    np.testing.assert_array_equal(other[:100], logits[:100].astype(np.float32))
    assert (other[101:] != logits[101:]).any()


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_an_overflow_shows_in_all_that_follows(kind: str, tmp_path: Path) -> None:
    """Also where keys and values have 8 bits, which can't be NaN."""
    embedding = np.random.default_rng(0).normal(0, 0.001, (len(tokens()), D))
    embedding[5] = 1e36
    draft = hybrid(kind, "a").set("granitehybrid.embedding_scale", scalar(F32, 1000.0))
    draft = draft.put("token_embd.weight", encode(embedding, "f32"))
    (path := tmp_path / "model.gguf").write_bytes(draft.render())
    logits = Model.load(path).logits([6, 5, *range(7, 40)])
    assert np.isfinite(logits[0]).all()
    assert np.isnan(logits[1:]).all()


@pytest.mark.parametrize("ids", [[], [-1], [10_000], [2**31 - 1], [5] * 513])
def test_ids_that_cannot_be_read_are_an_error_and_change_nothing(
    ids: list[int], engine: Model
) -> None:
    state = engine.state("a")
    before = state.save()
    with pytest.raises(UsageError):
        engine.logits(ids, state)
    assert state.save() == before


# The integer sums of quantised types are exact, so that only float roundings (of a scale, a
# norm, an exponential) differ between instruction sets. But where such a difference moves an
# activation over the border between two of its 8-bit values, a logit moves by a whole step.
# So: float types logit by logit, quantised ones by what the distributions' difference costs.
SCRIPT = """
import json, sys
import numpy as np
from itera_lite.engine import Model
ids, files, out = json.loads(sys.argv[1])
found = {}
for name, path in files.items():
    model = Model.load(path)
    found[name] = model.logits(ids)
np.savez(out, isa=model.isa, **found)
"""


@pytest.fixture(scope="session")
def per_set(
    export: Export, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Instruction set -> 'FAMILY TYPE' -> logits, for each set that this processor has."""
    folder = tmp_path_factory.mktemp("sets")
    files = {f"{c.family} {t}": str(export(c, t)) for c in TINY for t in TYPES}
    found = {}
    for wanted in ("portable", "avx2", "avx512", "neon"):
        out = folder / f"{wanted}.npz"
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps([IDS, files, str(out)])],
            env={**os.environ, "ITERA_ISA": wanted},
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode:
            assert "no such kernels" in done.stderr and wanted != "portable", done.stderr
            continue
        with np.load(out) as arrays:
            assert str(arrays["isa"]) == wanted
            found[wanted] = {name: arrays[name] for name in files}
    return found


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("family", ["itera", "transformer"])
@pytest.mark.parametrize("isa", ["avx2", "avx512", "neon"])
def test_every_instruction_set_computes_what_the_portable_code_does(
    isa: str, family: str, type: str, per_set: dict[str, dict[str, NDArray[np.float32]]]
) -> None:
    if isa not in per_set:
        pytest.skip(f"this processor has no {isa}")
    ours = per_set[isa][f"{family} {type}"]
    portable = per_set["portable"][f"{family} {type}"]
    if type in ("f32", "f16", "bf16"):
        np.testing.assert_allclose(ours, portable, atol=1e-4)
    else:
        assert divergence(portable, ours) < 1e-3


def divergence(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Mean Kullback-Leibler divergence from the distributions of logits a to those of b."""
    log_a, log_b = (torch.from_numpy(x).double().log_softmax(-1) for x in (a, b))
    return float((log_a.exp() * (log_a - log_b)).sum(-1).mean())


def test_an_unknown_instruction_set_is_an_error(itera_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "itera_lite.cli", "generate", "--checkpoint", str(itera_file)],
        env={**os.environ, "ITERA_ISA": "mmx"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 1
    assert "ITERA_ISA=mmx" in done.stderr and "portable, avx2" in done.stderr
    assert "Traceback" not in done.stderr
