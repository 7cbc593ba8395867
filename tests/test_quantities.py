"""The one parser for numbers: counts, sizes, shares, seeds, threads, and ranges."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itera_lite.errors import UsageError
from itera_lite.quantities import (
    bytes_of,
    finite_number,
    number_of,
    seed_of,
    share_of,
    threads_of,
    whole_number,
)


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        *((number_of, text, value) for text, value in (("3M", 3e6), ("1.5k", 1500), ("2B", 2e9))),
        *((number_of, text, value) for text, value in (("3000000", 3e6), ("1e6", 1e6), (7, 7))),
        *((bytes_of, text, value) for text, value in (("1MB", 10**6), ("900kB", 900_000))),
        *((bytes_of, text, value) for text, value in (("5KB", 5000), ("1.5mib", 1_572_864))),
        *((bytes_of, text, value) for text, value in (("1 MiB", 2**20), ("12B", 12), (1234, 1234))),
        *((bytes_of, text, value) for text, value in (("2GB", 2 * 10**9), ("1GiB", 2**30))),
        *((share_of, text, value) for text, value in (("1%", 0.01), ("0%", 0), ("250%", 2.5))),
    ],
)
def test_what_a_person_writes(read: Callable[..., float], text: Any, expected: float) -> None:
    assert read("x", text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("read", "bad"),
    [
        *((number_of, bad) for bad in ("", "M", "-3M", "0", "0.5", "nan", "inf", "1e30", "3MB")),
        *((bytes_of, bad) for bad in ("", "MB", "-1MB", "0", "nan", "inf", "1e300GB", "1M", "1%")),
        *((share_of, bad) for bad in ("", "%", "1", "0.01", "-1%", "nan%", "inf%", "1%%")),
    ],
)
def test_anything_else_names_the_option(read: Callable[..., float], bad: str) -> None:
    with pytest.raises(UsageError, match=r"^--max-loss .*: expected "):
        read("max_loss", bad)


@given(st.text())
def test_no_text_raises_anything_but_a_usage_error(text: str) -> None:
    for read in (number_of, bytes_of, share_of):
        try:
            assert math.isfinite(read("x", text))
        except UsageError as error:
            assert len(str(error)) < 300


def test_seeds_are_the_same_everywhere() -> None:
    import torch

    for good in (0, 2**63 - 1, np.int32(5), np.uint64(5)):
        seed = seed_of(good)
        assert seed == int(good) and type(seed) is int
        torch.manual_seed(seed)
        np.random.default_rng(seed)
    for bad in (-1, 2**63, 10**100, 1.5, "1", None, math.nan):
        with pytest.raises(UsageError, match=r"--seed .*: expected a whole number from 0 to 2\^63"):
            seed_of(bad)


@pytest.mark.parametrize("bad", [0, -1, 10**9, 2.0, math.nan])
def test_threads_are_one_or_more(bad: Any) -> None:
    assert threads_of(np.int64(2)) == 2
    with pytest.raises(UsageError, match="--threads "):
        threads_of(bad)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -0.1, 2, "x", None])
def test_a_number_in_a_range(bad: Any) -> None:
    assert finite_number("top_p", 0.5, least=0, most=1) == 0.5
    with pytest.raises(
        UsageError, match=r"--top-p .*: expected a number, at least 0 and at most 1"
    ):
        finite_number("top_p", bad, least=0, most=1)
    with pytest.raises(UsageError, match="--top-p an enormous number: expected"):
        finite_number("top_p", 10**5000)
    with pytest.raises(UsageError, match="expected a number, more than 0"):
        finite_number("minutes", 0, above=0)


def test_a_whole_number_in_a_range() -> None:
    assert whole_number("repeats", np.int8(3)) == 3
    with pytest.raises(UsageError, match="--repeats 0: expected a whole number, 1 or more"):
        whole_number("repeats", 0)
    with pytest.raises(UsageError, match="--size 9: expected a whole number from 2 to 4"):
        whole_number("size", 9, least=2, most=4)
