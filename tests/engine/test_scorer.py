"""`Scorer` beside plain calls of `Model.score`, and the threshold beside a search for it."""

import pickle
import random
import warnings
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itera_lite.engine import Model
from itera_lite.engine.scorer import Scorer, check_unit, threshold_of
from itera_lite.errors import CheckpointError, DataError, IteraWarning, ModelFileError, UsageError

TEXTS = ["a text", "", b"bytes \xff", "höher " * 40]


def test_one_model(gguf_pair: dict[str, Path]) -> None:
    path = gguf_pair["itera_lite_test"]
    model = Model.load(path)
    for window in (None, 16):
        expected = [s.bits_per_byte if s.bytes else None for s in model.score(TEXTS, window=window)]
        scorer = Scorer(path, window=window, threads=2)
        assert scorer.score(TEXTS) == expected
        assert pickle.loads(pickle.dumps(scorer)).score(TEXTS) == expected  # noqa: S301
    assert scorer.unit == model.unit and scorer.path == path


def test_two_models(gguf_pair: dict[str, Path]) -> None:
    good, bad = gguf_pair.values()
    scorer = Scorer(good, bad=bad)
    pairs = zip(Model.load(good).score(TEXTS), Model.load(bad).score(TEXTS), strict=True)
    expected = [a.bits_per_byte - b.bits_per_byte if a.bytes else None for a, b in pairs]
    assert scorer.score(TEXTS) == expected and expected[1] is None
    again = pickle.loads(pickle.dumps(scorer))  # noqa: S301
    assert again.score(TEXTS) == expected and again.bad == bad
    assert Scorer(good, bad=good).score(["same", ""]) == [0.0, None]


def test_by_surprise(gguf_pair: dict[str, Path]) -> None:
    """Beside `Model.score`; it is another number than bits per byte, and is of one model."""
    good, bad = gguf_pair.values()
    scorer = Scorer(good, by="surprise")
    expected = [s.surprise if s.bytes else None for s in Model.load(good).score(TEXTS)]
    assert scorer.score(TEXTS) == expected != Scorer(good).score(TEXTS)
    again = pickle.loads(pickle.dumps(scorer))  # noqa: S301
    assert again.score(TEXTS) == expected
    both = Scorer(good, bad=bad)
    assert [one.field for one in (scorer, Scorer(good), both)] == [
        *("surprise", "bits_per_byte", "difference")
    ]
    assert len({one.quantity for one in (scorer, Scorer(good), both)}) == 3
    with pytest.raises(UsageError, match="not by surprise"):
        Scorer(good, bad=bad, by="surprise")
    with pytest.raises(UsageError, match="by=nats: expected bits_per_byte or surprise"):
        Scorer(good, by="nats")  # type: ignore[arg-type]


def test_a_model_that_is_missing_or_damaged(itera_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model at"):
        Scorer(tmp_path / "none.gguf")
    with pytest.raises(CheckpointError, match="no model at"):
        Scorer(itera_file, bad=tmp_path / "none.gguf")
    with pytest.raises(UsageError, match="window=0"):
        Scorer(itera_file, window=0)
    path = tmp_path / "overflows.gguf"
    path.write_bytes(itera_file.read_bytes())
    (norm,) = (
        tensor
        for tensor in gguf.GGUFReader(path, "r+").tensors
        if tensor.name == "output_norm.weight"
    )
    norm.data[:] = 3e38  # finite, so that the model is loaded
    scorer = Scorer(path)
    for texts in (["a"], ["a", "long " * 300]):
        with pytest.raises(ModelFileError, match="log-probability is not a number"):
            scorer.score(texts)
        with pytest.raises(ModelFileError, match="log-probability is not a number"):
            scorer.details(texts)


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(1, 5)), min_size=1, max_size=40),
    st.floats(0.01, 1),
)
def test_no_other_threshold_comes_nearer(pairs: list[tuple[int, int]], keep: float) -> None:
    """With one score for each value of the threshold, so that no two texts are equal."""
    pairs = list(dict(pairs).items())
    scores, weights = [float(s) for s, _ in pairs], [float(w) for _, w in pairs]

    def off(limit: float) -> float:
        kept = sum(w for s, w in zip(scores, weights, strict=True) if s <= limit)
        return abs(kept - keep * sum(weights))

    found = threshold_of(scores, keep, weights)
    assert found in scores
    assert off(found) == pytest.approx(min(map(off, scores)))


@pytest.mark.parametrize("n", [1, 3, 10, 1000])
def test_the_share_is_kept(n: int) -> None:
    scores = [random.Random(n).gauss(0, 1) + i for i in range(n)]
    random.Random(1).shuffle(scores)
    for keep in (0.001, 0.1, 0.3, 0.5, 0.99, 1.0):
        limit = threshold_of(scores, keep)
        assert abs(sum(s <= limit for s in scores) - max(1, keep * n)) <= 0.5 + 1e-9


def test_a_threshold_of_nothing() -> None:
    for keep in (0.0, -1.0, 1.01, float("nan")):
        with pytest.raises(UsageError, match="keep="):
            threshold_of([1.0], keep)
    with pytest.raises(DataError, match="no scores"):
        threshold_of([], 0.5)


def test_another_unit_is_a_warning() -> None:
    with pytest.warns(IteraWarning, match="trained on sentences, and documents and lines are"):
        check_unit("sentence", {"line", "document"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_unit("line", {"line"})
        check_unit(None, {"line", "document"})
