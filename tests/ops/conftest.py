"""The fused operations with vectors of every width and products of bfloat16, on any processor."""

import os
import platform
import shlex
from pathlib import Path
from unittest import mock

import pytest
import torch

from itera_lite import ops
from itera_lite.ops import library

X86 = platform.machine() == "x86_64"
NARROWER = {4: ["-mno-avx"], 8: ["-mno-avx512f"]}  # for so many numbers of a vector


@pytest.fixture(scope="session")
def libraries():
    """The compiled libraries so far, by the numbers of a vector; None: this processor's own."""
    return {None: library.load()}


def compiled(lanes: int):
    """The library with vectors of so many numbers; of 16, where this processor lacks AVX512-BF16,
    with its instructions in plain C++, compiled without optimization."""
    if lanes in NARROWER:
        with mock.patch.object(library, "FLAGS", [*library.FLAGS, *NARROWER[lanes]]):
            return library.load()
    header = Path(__file__).parent / "avx512.h"
    command = shlex.join([*library._compiler(), "-Wno-psabi", "-include", str(header)])
    flags = [flag for flag in library.FLAGS if flag != "-O3"]
    with mock.patch.dict(os.environ, CXX=command), mock.patch.object(library, "FLAGS", flags):
        return library.load()


@pytest.fixture(
    params=[(torch.float32, None), (torch.float32, 4), (torch.float32, 8), (torch.bfloat16, 16)],
    ids=["own", "4", "8", "bf16"],
)
def dtype(request, libraries, monkeypatch):
    """A type of the products, with the fused operations on."""
    wanted, lanes = request.param
    torch.manual_seed(0)
    problem = ops.enable()
    assert problem is None, problem
    if lanes is not None and not (lanes == 16 and library.has_bf16()):
        if not X86:
            pytest.skip("another processor's vectors")
        if lanes not in libraries:
            libraries[lanes] = compiled(lanes)
        monkeypatch.setattr(library, "_library", libraries[lanes])
        monkeypatch.setattr(library, "_functions", {})
    yield wanted
    ops.forget_packed()
    ops.disable()
