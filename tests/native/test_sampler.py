"""The engine's sampler draws from the distribution that its options say, and nothing else."""

import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from itera_lite import _engine
from itera_lite.errors import IteraError

VOCAB = 60
Logits = NDArray[np.float32]
Distribution = NDArray[np.float64]


def logits_of(seed: int, size: int = VOCAB, spread: float = 2.0) -> Logits:
    return np.random.default_rng(seed).normal(0, spread, size).astype(np.float32)


def oracle(
    logits: Logits,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 0.95,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: dict[int, float] | None = None,
    recent: list[int] | None = None,
) -> Distribution:
    """The distribution, in double precision and the plainest way; all of `recent` was generated."""
    x = logits.astype(np.float64)
    for token, bias in (logit_bias or {}).items():
        x[token] += bias
    for token in set(recent or []):
        x[token] = x[token] / repetition_penalty if x[token] > 0 else x[token] * repetition_penalty
    for token in recent or []:
        x[token] -= frequency_penalty
    for token in set(recent or []):
        x[token] -= presence_penalty
    p = np.exp((x - x.max()) / temperature)
    order = np.argsort(-p, kind="stable")
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    if top_p < 1:
        p[order[before >= top_p]] = 0
    p[p < min_p * p.max()] = 0
    return p / p.sum()


def draws(
    logits: Logits, n: int, recent: list[int] | None = None, **options: object
) -> Distribution:
    """How often each token was drawn."""
    sampler = _engine.Sampler(len(logits), **options)
    for token in recent or []:
        sampler.accept(token)
    return np.bincount([sampler.sample(logits) for _ in range(n)], minlength=len(logits))


def assert_fits(counts: Distribution, expected: Distribution) -> None:
    """Nothing impossible, and a chi-square that a right sampler exceeds once in 30,000 times."""
    assert not counts[expected == 0].any()
    n, likely = counts.sum(), expected * counts.sum() >= 5
    rest = (n - counts[likely].sum(), n * (1 - expected[likely].sum()))
    seen = np.append(counts[likely], rest[0])
    wanted = np.append(expected[likely] * n, rest[1])
    keep = wanted > 1e-6 * n
    chi = ((seen[keep] - wanted[keep]) ** 2 / wanted[keep]).sum()
    freedom = max(int(keep.sum()) - 1, 1)
    spread = 2 / (9 * freedom)  # Wilson and Hilferty's approximation
    assert chi <= freedom * (1 - spread + 4 * math.sqrt(spread)) ** 3


OPTIONS = [
    {},
    {"top_p": 1.0},
    {"temperature": 1.0, "top_p": 1.0},
    {"temperature": 3.0, "top_p": 1.0},
    {"temperature": 0.3},
    {"top_p": 0.5},
    {"top_p": 1e-6},
    {"top_k": 1, "top_p": 1.0},
    {"top_k": 7, "top_p": 1.0},
    {"top_k": VOCAB, "top_p": 1.0},
    {"top_k": 10**9, "top_p": 1.0},
    {"top_k": 7, "top_p": 0.7},
    {"top_p": 1.0, "min_p": 0.2},
    {"top_p": 0.8, "min_p": 0.05},
    {"top_p": 0.5, "min_p": 1.0},
    {"top_k": 9, "top_p": 0.9, "min_p": 0.1, "temperature": 1.5},
    {"top_p": 1.0, "logit_bias": {3: 4.0, 5: -math.inf, 9: -1.5}},
    {"top_p": 1.0, "repetition_penalty": 1.7, "recent": [0, 1, 2, 2, 2, 50]},
    {"top_p": 1.0, "repetition_penalty": 0.5, "recent": [7, 8]},
    {"top_p": 1.0, "presence_penalty": 1.5, "recent": [0, 1, 2, 2, 2, 50]},
    {"top_p": 1.0, "frequency_penalty": 0.75, "recent": [0, 1, 2, 2, 2, 50]},
    {"top_p": 1.0, "presence_penalty": -1.0, "frequency_penalty": -0.5, "recent": [3, 3, 9]},
    {
        "repetition_penalty": 1.3,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.25,
        "recent": [4, 11],
        "logit_bias": {4: 3.0, 11: -3.0},
        "top_k": 20,
        "min_p": 0.02,
    },
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_distribution_is_the_one_asked_for(options: dict) -> None:
    for seed in (1, 2):
        logits = logits_of(seed)
        counts = draws(logits, 20_000, seed=seed, **options)
        assert_fits(counts, oracle(logits, **options))


def test_the_check_itself_notices_a_small_difference() -> None:
    logits = logits_of(1)
    counts = draws(logits, 20_000, top_p=1.0, seed=1)
    with pytest.raises(AssertionError):
        assert_fits(counts, oracle(logits, top_p=1.0, temperature=0.85))
    with pytest.raises(AssertionError):
        assert_fits(counts, oracle(logits, top_k=VOCAB - 20, top_p=1.0))


def test_a_large_vocabulary() -> None:
    logits = logits_of(3, 2048, 3.0)
    for options in ({}, {"top_p": 1.0}, {"top_k": 40}, {"top_p": 1.0, "min_p": 0.01}):
        assert_fits(draws(logits, 30_000, seed=4, **options), oracle(logits, **options))


@pytest.mark.parametrize("options", [{"top_k": 3, "top_p": 1.0}, {"top_p": 0.25}])
def test_of_equal_logits_the_lowest_ids_are_kept(options: dict) -> None:
    logits = np.zeros(10, np.float32)
    assert set(np.flatnonzero(draws(logits, 500, **options))) == {0, 1, 2}


@given(
    hnp.arrays(np.float32, st.integers(1, 300), elements=st.floats(-30, 30, width=32)),
    st.floats(0.125, 5, width=32),
    st.integers(0, 310),
    st.one_of(st.just(1.0), st.floats(0.0625, 1, width=32)),
    st.floats(0, 1, width=32),
)
@settings(max_examples=400, deadline=None)
def test_only_what_the_options_keep_is_drawn(
    logits: Logits, temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    sampler = _engine.Sampler(len(logits), seed=1, **options)
    drawn = {sampler.sample(logits) for _ in range(30)}
    # Where rounding decides about a token, either is right: a hair more is allowed.
    allowed = oracle(
        logits,
        temperature=temperature,
        top_k=top_k,
        top_p=min(1.0, top_p + 1e-5),
        min_p=min_p * (1 - 1e-5),
    )
    threshold = allowed[allowed > 0].min() * (1 - 1e-4)
    plain = oracle(logits, temperature=temperature, top_p=1.0)
    scale = allowed.max() / plain.max()
    assert all(plain[token] * scale >= threshold for token in drawn)


def test_the_python_sampler_has_the_same_distribution() -> None:
    import torch

    from itera_lite.model.stream import Sampler

    for seed, options in enumerate([{}, {"top_k": 9}, {"top_k": 20, "top_p": 0.6}]):
        logits = logits_of(seed)
        ours = oracle(logits, **options)
        theirs = Sampler(**options).probabilities(torch.from_numpy(logits)).numpy()
        np.testing.assert_allclose(theirs, ours, atol=1e-6)


def test_greedy_takes_the_lowest_of_the_most_probable() -> None:
    sampler = _engine.Sampler(VOCAB, temperature=0, repetition_penalty=2.0, logit_bias={5: 1.0})
    logits = np.zeros(VOCAB, np.float32)
    logits[[20, 30]] = 2.0
    assert [sampler.sample(logits) for _ in range(3)] == [20] * 3
    sampler.accept(20)
    assert sampler.sample(logits) == 30
    sampler.accept(30)
    assert sampler.sample(logits) == 5  # all three have 1 now
    for size in range(1, 70):  # whatever lane of the processor it is in
        for at in range(size):
            logits = np.full(size, -5, np.float32)
            logits[at:] = 1.0
            assert _engine.Sampler(size, temperature=0).sample(logits) == at


def test_the_window_forgets() -> None:
    logits = np.zeros(VOCAB, np.float32)
    logits[7] = 1.0
    options = {"temperature": 0, "repetition_penalty": 1e6}
    sampler = _engine.Sampler(VOCAB, repetition_window=3, **options)
    sampler.accept(7)
    logits[8] = 0.5
    seen = []
    for token in (1, 2, 3, 4):
        seen.append(sampler.sample(logits))
        sampler.accept(token)
    assert [*seen, sampler.sample(logits)] == [8, 8, 8, 7, 7]
    without = _engine.Sampler(VOCAB, repetition_window=0, **options)
    without.accept(7)
    assert without.sample(logits) == 7


def test_of_the_prompt_only_the_repetition_penalty_counts_tokens() -> None:
    logits = np.zeros(VOCAB, np.float32)
    logits[[7, 8]] = 1.0, 0.75
    penalised = _engine.Sampler(VOCAB, temperature=0, presence_penalty=0.5, frequency_penalty=0.5)
    for _ in range(3):
        penalised.accept(7, generated=False)
    assert penalised.sample(logits) == 7
    penalised.accept(7)
    assert penalised.sample(logits) == 8
    repetition = _engine.Sampler(VOCAB, temperature=0, repetition_penalty=2.0)
    repetition.accept(7, generated=False)
    assert repetition.sample(logits) == 8


def test_the_same_seed_draws_the_same_on_every_machine() -> None:
    logits = (np.arange(100) * 37 % 101 / 16).astype(np.float32)

    def drawn(seed: int, **options: object) -> list[int]:
        sampler = _engine.Sampler(100, seed=seed, **options)
        return [sampler.sample(logits) for _ in range(12)]

    assert drawn(5) == drawn(5) != drawn(6)
    assert drawn(2**64 - 1) != drawn(0)
    assert drawn(5) == GOLDEN["default"]
    assert drawn(7, top_k=30, top_p=1.0, temperature=2.0) == GOLDEN["top_k"]
    assert drawn(0, top_p=1.0, min_p=0.01) == GOLDEN["min_p"]


class Uniform:
    """Numbers from 0 to 1 of a seed, as `Sampler` draws them: xoroshiro128++ after SplitMix64."""

    def __init__(self, seed: int) -> None:
        self.state = []
        for step in (1, 2):
            value = (seed + step * 0x9E3779B97F4A7C15) % 2**64
            value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
            value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
            self.state.append(value ^ value >> 31)

    def draw(self) -> float:
        def rotated(x: int, by: int) -> int:
            return (x << by | x >> 64 - by) % 2**64

        a, b = self.state
        bits = (rotated((a + b) % 2**64, 17) + a) % 2**64
        b ^= a
        self.state = [rotated(a, 49) ^ b ^ b << 21 & 2**64 - 1, rotated(b, 28)]
        return (bits >> 11) * 2.0**-53


def exponentials(logits: Logits, temperature: float) -> Logits:
    """The weights of the engine, step by step in float32."""

    def f(number: float) -> np.float32:
        return np.float32(number)

    x = np.maximum((logits - logits.max()) * (f(1) / f(temperature)), f(-88))
    shifted = x * f(1.44269504) + f(12582912)
    power = shifted - f(12582912)
    rest = (x - power * f(0.693359375)) - power * f(-2.12194440e-4)
    result = np.full_like(rest, f(1) / f(720))
    for term in (f(1) / f(120), f(1) / f(24), f(1) / f(6), f(0.5), f(1), f(1)):
        result = result * rest + term
    two_to_the_power = (shifted.view(np.uint32) << 23) + np.uint32(0x3F800000)
    return result * two_to_the_power.view(np.float32)


def naive_draw(
    logits: Logits,
    numbers: Uniform,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 0.95,
    min_p: float = 0.0,
) -> int:
    """A token, by sorting all weights and adding one after the other.

    A token that isn't among the greatest is drawn in vain: one of those before it is drawn next.
    """
    weights = exponentials(logits, temperature)
    lanes = np.zeros(-(-len(weights) // 128) * 128, np.float32)
    lanes[: len(weights)] = weights
    mass = float(np.add.accumulate(lanes.reshape(-1, 8, 16), axis=1)[:, -1].sum(dtype=float))
    w = weights.astype(np.float64)
    order = [int(i) for i in np.lexsort((np.arange(len(w)), -w)) if w[i] >= 2.0**-126]
    if 0 < top_k < len(w):
        order = order[:top_k]
        mass = math.fsum(w[order])
    target = float(np.float32(top_p)) * mass if top_p < 1 else math.inf
    if min_p:
        order = [token for token in order if w[token] >= np.float32(min_p)]
        mass = math.fsum(w[order])
    while True:
        left = numbers.draw() * mass
        for token in sorted(order):
            left -= w[token]
            if left < 0:
                break
        order = order[: order.index(token)]
        mass = math.fsum(w[order])
        if mass < target:
            return token


DRAWN = [
    {},
    {"temperature": 2.0},
    {"temperature": 0.2},
    {"top_p": 0.5},
    {"top_p": 0.01},
    {"top_p": 1e-6, "temperature": 3.0},
    {"top_p": 1.0},
    {"top_p": 1.0, "top_k": 1},
    {"top_p": 1.0, "top_k": 40},
    {"top_p": 1.0, "top_k": 700, "temperature": 3.0},
    {"top_k": 7},
    {"top_k": 200, "min_p": 0.01},
    {"top_p": 1.0, "min_p": 0.05},
    {"top_p": 0.9, "min_p": 0.001, "temperature": 1.3},
]


def cases() -> list[tuple[Logits, dict[str, float]]]:
    """Logits of many lengths and kinds, each with options."""
    found, numbers = [], np.random.default_rng(11)
    for size in (1, 15, 16, 17, 60, 300, 2048, 2050):
        kinds = [
            numbers.normal(0, 0.1, size),
            numbers.normal(0, 2, size),
            numbers.normal(0, 6, size),
            np.round(numbers.normal(0, 2, size)),  # many equal ones
            np.zeros(size),
            np.where(numbers.random(size) < 0.7, -np.inf, numbers.normal(0, 3, size)),
        ]
        for kind in kinds:
            kind[numbers.integers(size)] = 2.0  # or all might be -inf
            found += [(kind.astype(np.float32), options) for options in DRAWN]
    return found


SETS = """
import json, sys
import numpy as np
from itera_lite import _engine
with np.load(sys.argv[1]) as arrays:
    logits = [arrays[f"arr_{i}"] for i in range(len(arrays))]
out = []
for i, (x, options) in enumerate(zip(logits, json.loads(sys.argv[2]))):
    sampler = _engine.Sampler(len(x), seed=i, **options)
    out.append([sampler.sample(x) for _ in range(4)])
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def drawn_by_sorting() -> list[list[int]]:
    found = []
    for seed, (logits, options) in enumerate(cases()):
        uniform = Uniform(seed)
        found.append([naive_draw(logits, uniform, **options) for _ in range(4)])
    return found


@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "neon"])
def test_every_instruction_set_draws_what_sorting_draws(
    isa: str, drawn_by_sorting: list[list[int]], tmp_path: Path
) -> None:
    np.savez(tmp_path / "logits.npz", *(logits for logits, _ in cases()))
    options = json.dumps([options for _, options in cases()])
    done = subprocess.run(
        [sys.executable, "-c", SETS, str(tmp_path / "logits.npz"), options],
        env={**os.environ, "ITERA_ISA": isa},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if "no such kernels" in done.stderr and isa != "portable":
        pytest.skip(f"this processor has no {isa}")
    assert done.returncode == 0, done.stderr
    drawn = json.loads(done.stdout)
    assert len({token for tokens in drawn for token in tokens}) > 300
    assert drawn == drawn_by_sorting


GOLDEN = {
    "default": [27, 90, 79, 76, 49, 62, 65, 87, 90, 54, 79, 60],
    "top_k": [62, 16, 38, 73, 19, 98, 98, 19, 87, 19, 87, 79],
    "min_p": [46, 76, 30, 46, 49, 30, 90, 68, 87, 30, 65, 76],
}


def test_the_given_logits_stay_as_they_are() -> None:
    logits = logits_of(9)
    before = logits.copy()
    one, other = (_engine.Sampler(VOCAB, seed=3, logit_bias={1: 2.0}) for _ in range(2))
    for _ in range(50):
        assert one.sample(logits) == other.sample(logits.astype(np.float64))
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, r"temperature=-0\.1: expected 0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"temperature": math.inf}, "temperature=inf"),
        ({"top_k": -1}, "top_k=-1: expected 0"),
        ({"top_p": 0.0}, "top_p=0: expected more than 0"),
        ({"top_p": 1.5}, r"top_p=1\.5"),
        ({"top_p": math.nan}, "top_p=nan"),
        ({"min_p": -0.5}, r"min_p=-0\.5: expected 0"),
        ({"min_p": 1.25}, r"min_p=1\.25"),
        ({"min_p": math.nan}, "min_p=nan"),
        ({"presence_penalty": 2.5}, r"presence_penalty=2\.5: expected -2 to 2"),
        ({"presence_penalty": math.nan}, "presence_penalty=nan"),
        ({"frequency_penalty": -2.5}, r"frequency_penalty=-2\.5: expected -2 to 2"),
        ({"frequency_penalty": math.inf}, "frequency_penalty=inf"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0: expected more than 0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty=inf"),
        ({"repetition_penalty": math.nan}, "repetition_penalty=nan"),
        ({"repetition_window": -1}, "repetition_window=-1: expected 0"),
        ({"repetition_window": 2**31 - 1}, "repetition_window=2147483647: expected .* 1048576"),
        ({"logit_bias": {60: 1.0}}, "logit_bias token=60: expected a token from 0 to 59"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias token=-1"),
        ({"logit_bias": {2: math.nan}}, "logit_bias of token 2=nan"),
        ({"logit_bias": {2: math.inf}}, "logit_bias of token 2=inf"),
    ],
    ids=str,
)
def test_an_option_out_of_range_is_named(options: dict, message: str) -> None:
    with pytest.raises(IteraError, match=message):
        _engine.Sampler(VOCAB, **options)


def test_bounds_that_are_good() -> None:
    for options in (
        {"min_p": 1.0},
        {"top_p": 1e-30},
        {"temperature": 1e-40},
        {"temperature": 1e38},
    ):
        assert 0 <= _engine.Sampler(VOCAB, **options).sample(logits_of(0)) < VOCAB
    assert _engine.Sampler(1).sample(np.array([-3.0])) == 0


@pytest.mark.parametrize("temperature", [0, 0.8])
@pytest.mark.parametrize(
    ("value", "at", "message"),
    [
        (math.nan, slice(33, 34), "60 logits are NaN"),
        (-math.nan, slice(0, 60), "60 logits are NaN"),
        (math.nan, slice(59, 60), "60 logits are NaN"),
        (math.inf, slice(5, 6), "greatest logit is inf"),
        (-math.inf, slice(0, 60), "greatest logit is -inf"),
    ],
)
def test_damaged_logits_are_refused(
    temperature: float, value: float, at: slice, message: str
) -> None:
    logits = logits_of(0)
    logits[at] = value
    with pytest.raises(IteraError, match=message):
        _engine.Sampler(VOCAB, temperature=temperature).sample(logits)
    with pytest.raises(IteraError, match=message):
        _engine.log_probability(logits, 0)


def test_wrong_sizes_and_ids_are_refused() -> None:
    sampler = _engine.Sampler(VOCAB)
    with pytest.raises(IteraError, match="59 logits: expected 60"):
        sampler.sample(logits_of(0, 59))
    for token in (-1, 60):
        with pytest.raises(IteraError, match=f"token={token}"):
            sampler.accept(token)
        with pytest.raises(IteraError, match=f"token {token} of 60 logits"):
            _engine.log_probability(logits_of(0), token)
    with pytest.raises(IteraError, match="vocab_size=0"):
        _engine.Sampler(0)


@given(
    hnp.arrays(
        np.float32,
        st.integers(1, 700),
        elements=st.one_of(st.floats(-200, 200, width=32), st.just(-math.inf)),
    )
)
@settings(max_examples=300, deadline=None)
def test_log_probabilities_are_exact(logits: Logits) -> None:
    logits[0] = max(logits[0], -150)
    x = logits.astype(np.float64)
    expected = x - x.max() - np.log(np.exp(x - x.max()).sum())
    for token in {0, len(logits) // 2, len(logits) - 1}:
        # Seven additions to a sum near 1 in float32 round by 7 * 2^-24 at most, 4.2e-7.
        assert _engine.log_probability(logits, token) == pytest.approx(expected[token], abs=5e-7)


def test_exponentials_are_exact_all_the_way_down() -> None:
    """Two tokens: the second's logit goes from equal to out of reach."""
    xs = np.linspace(0, -90, 4001).astype(np.float32)
    results = [_engine.log_probability(np.array([0.0, x]), 0) for x in xs]
    expected = -np.log1p(np.exp(xs.astype(np.float64)))
    np.testing.assert_allclose(results, expected, rtol=0, atol=1.5e-7)
    assert all(a <= b + 1e-7 for a, b in pairwise(results))


def test_probabilities_sum_to_one() -> None:
    logits = logits_of(5, 2048, 4.0)
    total = math.fsum(math.exp(_engine.log_probability(logits, i)) for i in range(2048))
    assert total == pytest.approx(1, abs=2e-7)
