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
BF16 = ("bf16", "amx")  # products of vectors and of tiles


@pytest.fixture(scope="session")
def libraries():
    """The compiled libraries so far, by what is different in them."""
    return {}


def compiled(kind: str):
    """The library with narrower vectors, by Clang, with AVX512-BF16, or with AMX too. Where this
    processor lacks their instructions they are plain C++, compiled without optimization."""
    here = Path(__file__).parent
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
    else:
        if not library.has_bf16():
            command += ["-Wno-psabi", "-include", str(here / "avx512.h")]
            flags.remove("-O3")
        if kind == "amx" and not library.call("has_amx"):
            command += ["-include", str(here / "amx.h")]
        if kind == "bf16" and library.call("has_amx"):
            flags.append("-mno-amx-bf16")
    with (
        mock.patch.dict(os.environ, CXX=shlex.join(command)),
        mock.patch.object(library, "FLAGS", flags),
    ):
        return library.load()


@pytest.fixture(params=["own", *NARROWER, "clang", *BF16])
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
        if kind in BF16:
            assert libraries[kind].has_amx() == (kind == "amx")
        monkeypatch.setattr(library, "_library", libraries[kind])
        monkeypatch.setattr(library, "_functions", {})
    yield torch.bfloat16 if kind in BF16 else torch.float32
    ops.forget_packed()
    ops.disable()
