"""The compiled library, and how the operations' modules call it."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from itera_lite.ops.build import load

_library: ctypes.CDLL | None = None
SUFFIX = {torch.float32: "f32", torch.bfloat16: "b16"}  # of a function's name


def load_library() -> None:
    """Compile and load the library.

    Raises:
        OSError: where it can't be compiled or loaded.
    """
    global _library
    _library = _library or load()


def call(name: str, *arguments: Any) -> int:
    """Call ``name`` and return its whole number, if it gives one.

    Tensors go as pointers, whole numbers as int64, other numbers as float.
    """
    if _library is None:
        raise RuntimeError("call itera_lite.ops.enable() first")
    converted: list[Any] = []
    for value in arguments:
        if isinstance(value, Tensor):
            converted.append(ctypes.c_void_p(value.data_ptr()))
        elif isinstance(value, int):
            converted.append(ctypes.c_int64(value))
        elif isinstance(value, float):
            converted.append(ctypes.c_float(value))
        else:
            converted.append(value)  # None, or a reference to a structure
    return int(getattr(_library, name)(*converted))
