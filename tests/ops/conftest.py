"""The fused operations with vectors of every width and products of bfloat16, on any processor."""

import os
import platform
import shlex
import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch

from itera_lite import ops
from itera_lite.ops import library

NARROWER = {"4 lanes": "-mno-avx", "8 lanes": "-mno-avx512f"}


@pytest.fixture(scope="session")
def libraries():
    """The compiled libraries so far, by what is different in them."""
    return {}


def compiled(kind: str):
    """The library with narrower vectors, by Clang, or with AVX512-BF16. Where this processor lacks
    its instructions they are plain C++, compiled without optimization."""
    command, flags = library._compiler(), list(library.FLAGS)
    if kind == "clang":
        clang = shutil.which("clang++") or shutil.which("clang++-19")
        if not clang:
            pytest.skip("no Clang on this machine")
        command = [clang]
    elif platform.machine() != "x86_64":
        pytest.skip("another processor's vectors")
    elif kind in NARROWER:
        flags.append(NARROWER[kind])
    elif not library.has_bf16():
        header = Path(__file__).parent / "avx512.h"
        command += ["-Wno-psabi", "-include", str(header)]
        flags.remove("-O3")
    with (
        mock.patch.dict(os.environ, CXX=shlex.join(command)),
        mock.patch.object(library, "FLAGS", flags),
    ):
        return library.load()


@pytest.fixture(params=["own", *NARROWER, "clang", "bf16"])
def dtype(request, libraries, monkeypatch):
    """A type of the products, with the fused operations on."""
    torch.manual_seed(0)
    problem = ops.enable()
    assert problem is None, problem
    kind = request.param
    if kind != "own":
        if kind not in libraries:
            libraries[kind] = compiled(kind)
        if kind in NARROWER:
            assert libraries[kind].packed_size_f32(1, 1) == int(kind.split()[0])
        monkeypatch.setattr(library, "_library", libraries[kind])
        monkeypatch.setattr(library, "_functions", {})
    yield torch.bfloat16 if kind == "bf16" else torch.float32
    ops.forget_packed()
    ops.disable()
