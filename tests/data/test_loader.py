"""The loader: each token once an epoch, another order each epoch, exact resume, ranks."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itera_lite.data.loader import TokenLoader
from itera_lite.errors import DataError


def stream(n_predicted: int) -> np.ndarray:
    """0, 1, 2, ..., 0: each predicted token names its place (0 the last one)."""
    return np.array([*range(n_predicted), 0], dtype=np.uint16)


def predicted_from(loader: TokenLoader, n_batches: int) -> np.ndarray:
    """Targets as windows, (n_batches * batch_size, seq_len)."""
    return np.concatenate([loader.next_batch()[:, 1:] for _ in range(n_batches)])


@given(st.integers(10, 300), st.integers(1, 12), st.integers(1, 5), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_each_token_is_predicted_once_an_epoch(
    n: int, seq_len: int, batch_size: int, seed: int
) -> None:
    windows = n // seq_len
    if windows < batch_size:
        return
    loader = TokenLoader(stream(n), batch_size=batch_size, seq_len=seq_len, seed=seed)
    assert loader.tokens_per_epoch == windows * seq_len > n - seq_len
    # Three epochs, whether or not a batch ends where an epoch does.
    rows = predicted_from(loader, -(-3 * windows // batch_size))
    for epoch in range(3):
        seen = rows[epoch * windows : (epoch + 1) * windows].ravel()
        assert len(seen) == len(set(seen.tolist())) == loader.tokens_per_epoch


def test_windows_are_text_in_order_and_wrap_at_the_eot() -> None:
    tokens = stream(50)
    loader = TokenLoader(tokens, batch_size=4, seq_len=7, seed=1)
    wrapped = False
    for _ in range(40):
        for row in loader.next_batch():
            assert np.array_equal(row, (row[0] + np.arange(8)) % 50)
            wrapped |= bool(row[-1] < row[0])
    assert wrapped


def test_the_remainder_is_another_one_each_epoch() -> None:
    loader = TokenLoader(stream(103), batch_size=5, seq_len=10, seed=0)
    missed = [set(range(103)) - set(predicted_from(loader, 2).ravel().tolist()) for _ in range(9)]
    assert all(len(rest) == 3 for rest in missed)
    assert len({frozenset(rest) for rest in missed}) > 5


def test_shape_type_and_epoch() -> None:
    loader = TokenLoader(stream(120), batch_size=3, seq_len=10, seed=0)
    batch = loader.next_batch()
    assert batch.shape == (3, 11) and batch.dtype == np.int64
    assert loader.epoch == pytest.approx(3 / 12)
    for _ in range(3):
        loader.next_batch()
    assert loader.epoch == 1.0


def test_order_differs_by_epoch_and_seed_and_repeats() -> None:
    def epochs(seed: int) -> list[list[list[int]]]:
        loader = TokenLoader(stream(400), batch_size=4, seq_len=10, seed=seed)
        return [predicted_from(loader, 10).tolist() for _ in range(3)]

    first = epochs(5)
    assert first[0] != first[1] != first[2] != first[0]
    assert epochs(5) == first
    assert epochs(6) != first


@given(st.integers(0, 30), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_resume_equals_uninterrupted(done: int, seed: int) -> None:
    def new() -> TokenLoader:
        return TokenLoader(stream(205), batch_size=3, seq_len=9, seed=seed)

    straight = new()
    for _ in range(done):
        straight.next_batch()
    state = json.loads(json.dumps(straight.state_dict()))
    resumed = new()
    resumed.load_state_dict(state)
    assert resumed.epoch == straight.epoch
    for _ in range(12):
        assert np.array_equal(resumed.next_batch(), straight.next_batch())


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_the_global_batch(world_size: int) -> None:
    alone = TokenLoader(stream(333), batch_size=8, seq_len=6, seed=2)
    ranks = [
        TokenLoader(
            stream(333),
            batch_size=8 // world_size,
            seq_len=6,
            seed=2,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    for _ in range(20):
        together = np.concatenate([loader.next_batch() for loader in ranks])
        assert np.array_equal(together, alone.next_batch())
    states = [loader.state_dict() for loader in (alone, *ranks)]
    assert all(state == states[0] for state in states)


def test_resume_with_another_number_of_ranks() -> None:
    alone = TokenLoader(stream(333), batch_size=8, seq_len=6, seed=2)
    alone.next_batch()
    half = TokenLoader(stream(333), batch_size=4, seq_len=6, seed=2, rank=1, world_size=2)
    half.load_state_dict(alone.state_dict())
    assert np.array_equal(half.next_batch(), alone.next_batch()[4:])


def test_too_short_for_one_batch_names_a_remedy_that_works() -> None:
    with pytest.raises(DataError, match="Give a batch_size of 5 or less"):
        TokenLoader(stream(50), batch_size=8, seq_len=10, seed=0)
    TokenLoader(stream(50), batch_size=5, seq_len=10, seed=0)
    with pytest.raises(DataError, match="Give a seq_len of 6 or less"):
        TokenLoader(stream(50), batch_size=8, seq_len=100, seed=0)
    TokenLoader(stream(50), batch_size=8, seq_len=6, seed=0)
    with pytest.raises(DataError, match="Give more text"):
        TokenLoader(stream(3), batch_size=8, seq_len=100, seed=0)
    with pytest.raises(DataError, match="too short"):
        TokenLoader(stream(0)[:0], batch_size=1, seq_len=1, seed=0)
    with pytest.raises(DataError, match="batch_size of 2 or less"):
        TokenLoader(stream(50), batch_size=3, seq_len=10, seed=0, world_size=2)


@pytest.mark.parametrize(
    "change", [{"seed": 3}, {"seq_len": 8}, {"n_tokens": 1}, {"position": -1}, {"position": None}]
)
def test_a_position_of_another_run_is_refused(change: dict[str, int]) -> None:
    loader = TokenLoader(stream(205), batch_size=3, seq_len=9, seed=0)
    with pytest.raises(DataError, match="position"):
        loader.load_state_dict({**loader.state_dict(), **change})


def test_wrong_sizes() -> None:
    for wrong in ({"batch_size": 0}, {"seq_len": 0}, {"rank": 1}, {"seed": -1}):
        with pytest.raises(DataError, match="expected"):
            TokenLoader(stream(50), **{"batch_size": 1, "seq_len": 5, "seed": 0, **wrong})
    with pytest.raises(DataError, match="both ends"):
        TokenLoader(np.arange(50), batch_size=1, seq_len=5, seed=0)


def test_the_order_is_that_of_a_permutation() -> None:
    """Trainings of earlier versions go on with it."""
    loader = TokenLoader(stream(1005), batch_size=20, seq_len=10, seed=3)
    for epoch in range(2):
        rng = np.random.default_rng([3, epoch])
        offset = int(rng.integers(1005))
        starts = offset + rng.permutation(100) * 10
        found = np.concatenate([loader.next_positions()[:, 0] for _ in range(5)])
        assert found.tolist() == (starts % 1005).tolist()
