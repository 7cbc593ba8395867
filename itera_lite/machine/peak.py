"""The peak speed of matrix products in PyTorch, which a model's FLOP/s are compared with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

SIZES = (512, 1024, 2048)  # squares: small ones stay in the cache, large ones amortise packing


def measured_peak(
    dtype: torch.dtype = torch.float32, *, seconds: float = 0.5, device: str = "cpu"
) -> float:
    """Best speed of a square matrix product, in FLOP/s (a multiply-add is 2).

    The best of all repeats of `SIZES`, not a mean: a peak is what the machine can do when nothing
    else runs. On a slow processor the sizes that would take seconds are left out.

    Args:
        dtype: of both factors and of the product.
        seconds: about how long to measure.
        device: ``cpu``, or a PyTorch device.
    """
    best = 0.0
    for n in SIZES:
        flops = 2.0 * n**3
        if best and flops / best > seconds:
            break
        best = max(best, flops / _fastest(n, dtype, seconds / len(SIZES), device))
    return best


@contextmanager
def torch_threads(threads: int | None = None) -> Iterator[None]:
    """Set PyTorch's number of threads for a block, and put the number before it back.

    Args:
        threads: None leaves the number as it is until the block sets it.
    """
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def _fastest(n: int, dtype: torch.dtype, budget: float, device: str) -> float:
    """Shortest time of an n x n product within ``budget`` seconds; at least two are timed."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, n, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(a)
    times: list[float] = []
    end = time.perf_counter() + budget
    torch.mm(a, b, out=out)  # the first call picks and compiles a kernel
    while len(times) < 2 or time.perf_counter() < end:
        synchronize(device)
        begin = time.perf_counter()
        torch.mm(a, b, out=out)
        synchronize(device)
        times.append(time.perf_counter() - begin)
    return min(times)


def synchronize(device: str) -> None:
    """Waits for what was started on a GPU; nothing to wait for on a processor."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
