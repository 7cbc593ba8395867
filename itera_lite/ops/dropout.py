"""Dropout that is repeated from a key: what is dropped is a hash of each number's place."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from itera_lite.ops.library import SUFFIX, call


class Drop(NamedTuple):
    """A choice of numbers that are zeroed; the others are scaled up.

    Attributes:
        share: of the numbers, from 0 (none) to below 1.
        key: decides which, 32 bits.
    """

    share: float = 0.0
    key: int = 0

    @property
    def scale(self) -> float:
        return 1 / (1 - self.share)

    @property
    def threshold(self) -> int:
        """Numbers whose hash is below it are zeroed."""
        return int(self.share * 2**32)

    def kept(self, like: Tensor) -> Tensor:
        """Which numbers of a tensor are kept (bool): the plain form of dropout.h."""
        h = torch.arange(like.numel(), device=like.device) ^ self.key
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            h = ((h ^ (h >> shift)) * factor) & 0xFFFFFFFF
        return (h >= self.threshold).view(like.shape)


class _Dropout(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, drop: Drop) -> Tensor:
        ctx.drop = drop
        return _apply(x, drop)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return _apply(dy, ctx.drop), None


def _apply(x: Tensor, drop: Drop) -> Tensor:
    x = x.contiguous()
    y = torch.empty_like(x)
    call(f"dropout_{SUFFIX[x.dtype]}", x, y, x.numel(), drop.scale, drop.key, drop.threshold)
    return y


def dropout(x: Tensor, drop: Drop) -> Tensor:
    """``x``, of any shape, with some numbers zeroed and the others scaled up."""
    return _Dropout.apply(x, drop)
