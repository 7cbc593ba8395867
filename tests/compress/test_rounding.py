# ruff: noqa: F811  (fixtures are imported, and named as arguments)
"""Rounding in PyTorch is the stored file's, and what lies on a grid stays where it is."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader
from gguf.quants import dequantize, quantize

from itera_lite.checkpoint.folder import load_checkpoint, save_checkpoint
from itera_lite.compress.rounding import (
    fake_quantize,
    few_levels,
    kinds_of,
    matrix_shapes,
    rounded,
)
from itera_lite.export.gguf import export_gguf
from itera_lite.export.tensors import gguf_tensors
from itera_lite.export.types import LADDER_LOW, LADDER_STEP, SCHEMES, is_exact, is_matrix, pack
from itera_lite.files import gzipped
from tests.export.conftest import tokenizer  # noqa: F401
from tests.export.models import ITERA, TRANSFORMER, random_model

BLOCKED = [Type.Q8_0, Type.Q4_0]
LEVELS = {Type.Q8_0: (-127, 128), Type.Q4_0: (-8, 8)}


def cases() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    normal = draw.standard_normal((64, 96)).astype(np.float32)
    return {
        "random": normal,
        "zero": np.zeros((4, 64), np.float32),
        "some zero": np.where(draw.random((64, 3, 1)) < 0.5, 0, normal.reshape(64, 3, 32)),
        "huge": normal * np.float32(1e4),
        "tiny": normal * np.float32(1e-5),  # the scale is a denormal float16
        "denormal scale": normal * np.float32(1e-7),
        "vanishing": normal * np.float32(1e-12),  # the scale is 0 in float16
        "denormal weights": normal * np.float32(1e-41),  # the reciprocal is infinite
        "ties": draw.integers(-2, 3, (64, 64)).astype(np.float32),
        "halves": draw.integers(-254, 255, (64, 64)).astype(np.float32) / 2,
    }


@pytest.mark.parametrize("kind", [*BLOCKED, Type.F16, Type.BF16])
@pytest.mark.parametrize("case", cases())
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the package that is compared with
def test_rounding_is_the_files_bit_for_bit(case, kind):
    weights = np.asarray(cases()[case], np.float32)
    stored = dequantize(quantize(weights, kind), kind).reshape(weights.shape)
    np.testing.assert_array_equal(fake_quantize(torch.from_numpy(weights), kind).numpy(), stored)


def on_grid(kind: Type, peak: int | None = None, blocks: int = 4000) -> np.ndarray:
    """Random blocks as a file may hold them; with ``peak``, the level of the largest weight."""
    draw = np.random.default_rng(1)
    low, high = LEVELS[kind]
    steps = draw.integers(low, high, (blocks, 32))
    if peak is not None:
        steps = steps % abs(peak)
        steps[:, 5] = peak
    scale = draw.standard_normal((blocks, 1)) * 10.0 ** draw.integers(-7, 3, (blocks, 1))
    return scale.astype(np.float16).astype(np.float32) * steps.astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "peak"),
    [(kind, None) for kind in BLOCKED]
    + [(Type.Q4_0, peak) for peak in range(-8, 8) if peak]
    + [(Type.Q8_0, peak) for peak in (1, 2, 63, 97, 126, 127)],
)
def test_what_is_on_the_grid_is_stored_exactly(kind, peak):
    weights = on_grid(kind, peak)
    assert is_exact(weights, kind)
    stored = dequantize(pack("x", weights, kind), kind).reshape(weights.shape)
    np.testing.assert_array_equal(stored, weights)
    wide = dequantize(pack("x", weights, Type.Q8_0), Type.Q8_0).reshape(weights.shape)
    np.testing.assert_array_equal(wide, weights)  # 4 bits lie on the grid of 8


def test_plain_rounding_alone_would_lose_it():
    weights = on_grid(Type.Q4_0, 5)
    stored = dequantize(quantize(weights, Type.Q4_0), Type.Q4_0).reshape(weights.shape)
    assert np.abs(stored - weights).max() > 0


def test_what_is_not_on_the_grid_is_rounded_plainly():
    weights = on_grid(Type.Q4_0, 5)
    weights[::2] += np.random.default_rng(2).standard_normal((2000, 32)).astype(np.float32)
    assert not is_exact(weights, Type.Q4_0)
    stored = dequantize(pack("x", weights, Type.Q4_0), Type.Q4_0).reshape(weights.shape)
    plain = dequantize(quantize(weights, Type.Q4_0), Type.Q4_0).reshape(weights.shape)
    np.testing.assert_array_equal(stored[::2], plain[::2])
    np.testing.assert_array_equal(stored[1::2], weights[1::2])


@pytest.mark.parametrize("config", [ITERA, TRANSFORMER], ids=["itera", "transformer"])
@pytest.mark.parametrize("type", ["q8_0", "q4_0", "mixed"])
def test_a_rounded_model_is_the_exported_one(type, config, tmp_path, tokenizer):
    """Names, halves and blocks are the exporter's; and a checkpoint tells its types by itself."""
    model = random_model(config)
    kinds = kinds_of(model, SCHEMES[type])
    exported = {name: value for name, value in gguf_tensors(model) if is_matrix(name)}
    assert set(exported) == set(kinds)
    assert {name: value.shape for name, value in exported.items()} == matrix_shapes(model)
    small = rounded(model, kinds)
    for name, value in gguf_tensors(small):
        if name in kinds:
            stored = dequantize(quantize(exported[name], kinds[name]), kinds[name])
            np.testing.assert_array_equal(value, stored.reshape(value.shape))
    folder = save_checkpoint(tmp_path / "small", small, tokenizer)
    plain = save_checkpoint(tmp_path / "plain" / "small", model, tokenizer)
    once = export_gguf(plain, type).path.read_bytes()
    assert export_gguf(folder, type).path.read_bytes() == once
    again = save_checkpoint(tmp_path / "again" / "small", load_checkpoint(folder)[0], tokenizer)
    from_weights = export_gguf(again, "auto")
    assert {k: s.tensors for k, s in from_weights.by_type.items()} == {
        k: s.tensors for k, s in export_gguf(plain, type).by_type.items()
    }
    if type != "mixed" or config.n_experts:  # llama.cpp's number for a mix is that of most tensors
        assert from_weights.path.read_bytes() == once


@pytest.mark.parametrize("levels", [3, 5, 7, 9, 15])
def test_few_levels_are_the_best_on_their_ladder_and_stored_as_they_are(levels):
    """The oracle tries every scale that float16 has on the ladder, for each block alone."""
    draw = np.random.default_rng(levels)
    weights = draw.standard_normal((40, 96)) * 10.0 ** draw.uniform(-3, 1, (40, 96 // 32)).repeat(
        32, 1
    )
    weights = weights.astype(np.float32)
    weights[3] = 0
    most = levels // 2
    codes = np.arange(LADDER_LOW, 0x7C00, LADDER_STEP, dtype=np.uint16)
    ladder = codes.view(np.float16).astype(np.float32)
    small = few_levels(torch.from_numpy(weights), levels).numpy()
    worse = 0
    for block, got in zip(weights.reshape(-1, 32), small.reshape(-1, 32), strict=True):
        tried = np.rint(block / ladder[:, None]).clip(-most, most) * ladder[:, None]
        errors = np.square(tried - block).sum(1)
        assert (tried == got).all(1).any()
        worse += np.square(got - block).sum() > 1.001 * errors.min()
    assert worse <= 0.05 * weights.size / 32  # a few blocks have a larger one than are tried
    packed = pack("x", small, Type.Q4_0).reshape(-1, 18)
    np.testing.assert_array_equal(dequantize(packed, Type.Q4_0).reshape(small.shape), small)
    steps = np.stack([packed[:, 2:] & 15, packed[:, 2:] >> 4]).astype(int) - 8
    assert np.abs(steps).max() == most
    of_weights = packed[small.reshape(-1, 32).any(1)]
    assert set(of_weights[:, 0]) == {LADDER_LOW} and (of_weights[:, 1] >= 0x80).all()
    if levels < 15:
        again = few_levels(torch.from_numpy(small), levels).numpy()
        np.testing.assert_array_equal(again, small)


@pytest.mark.parametrize("config", [ITERA, TRANSFORMER], ids=["itera", "transformer"])
def test_a_model_of_few_levels_is_the_exported_one_and_smaller_compressed(
    config, tmp_path, tokenizer
):
    model = random_model(config)
    small = rounded(model, kinds_of(model, SCHEMES["q4_0"], 5), 5)
    exact = dict(gguf_tensors(small))
    folder = save_checkpoint(tmp_path / "small", small, tokenizer)
    files = {type: export_gguf(folder, type).path for type in ("auto", "q4_0")}
    assert files["auto"].read_bytes() == files["q4_0"].read_bytes()
    for tensor in GGUFReader(files["auto"]).tensors:
        values = dequantize(tensor.data, tensor.tensor_type).reshape(exact[tensor.name].shape)
        np.testing.assert_array_equal(values, exact[tensor.name])
        if tensor.tensor_type == Type.F32 and not tensor.name.endswith("ssm_a"):
            assert not (tensor.data.view(np.uint32) & 0xFFFF).any(), tensor.name
    plain = save_checkpoint(tmp_path / "plain", model, tokenizer)
    usual = export_gguf(plain, "q4_0", format="gguf.gz")
    few = export_gguf(folder, "q4_0", format="gguf.gz")
    assert few.content_bytes == usual.content_bytes
    assert few.bytes < 0.75 * usual.bytes
    assert few.path.read_bytes() == gzipped(files["q4_0"].read_bytes())
