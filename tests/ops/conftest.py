"""The fused operations, with the products of bfloat16 on any processor."""

import os
import platform
import shlex
from pathlib import Path
from unittest import mock

import pytest
import torch

from itera_lite import ops
from itera_lite.ops import library, products


@pytest.fixture(scope="session")
def emulated():
    """The library with the instructions of AVX-512 in plain C++, compiled without optimization."""
    if platform.machine() != "x86_64":
        pytest.skip("only GCC for x86 knows the types of AVX-512")
    header = Path(__file__).parent / "avx512.h"
    command = shlex.join([*library._compiler(), "-Wno-psabi", "-include", str(header)])
    flags = [flag for flag in library.FLAGS if flag != "-O3"]
    with mock.patch.dict(os.environ, CXX=command), mock.patch.object(library, "FLAGS", flags):
        return library.load()


@pytest.fixture
def fused(request, monkeypatch):
    """The fused operations with all products, emulated where this processor lacks AVX512-BF16."""
    torch.manual_seed(0)
    problem = ops.enable()
    assert problem is None, problem
    if not ops.has_products():
        monkeypatch.setattr(library, "_library", request.getfixturevalue("emulated"))
        monkeypatch.setattr(library, "_functions", {})
        monkeypatch.setattr(products, "_has_products", None)
        assert ops.has_products()
    yield
    ops.forget_packed()
    ops.disable()
