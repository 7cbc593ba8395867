"""Result files: what is written is read again, and what can't be read says why."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from itera_lite.config import preset
from itera_lite.errors import IteraError
from itera_lite.machine.provenance import Provenance
from itera_lite.model.cost import cost, describe
from itera_lite.records import (
    BeforeAfter,
    Flops,
    HeldOut,
    Run,
    Summary,
    ValidScore,
    VocabularyBits,
    VocabularyChange,
    read_any,
)
from itera_lite.stats.comparison import Measurement
from itera_lite.stats.targets import Target


def summary() -> Summary:
    config = preset("itera", "tiny", 2048)
    counts = cost(config)
    return Summary(
        model=describe("mine", config, seed=3, made="compressed"),
        valid=ValidScore(bpb=0.7, loss=1.5, ppl=4.5, tokens=100, bytes=300),
        flops_per_token=Flops(forward=counts.flops_forward, train=counts.flops_train),
        compression=VocabularyChange(
            bytes_per_token=BeforeAfter(4.0, 3.5),
            rows_kept=1000,
            rows_made=24,
            bpb=VocabularyBits(0.6, 0.9),
        ),
        provenance=Provenance.now(seed=3),
    )


def held_out(bpb: float) -> HeldOut:
    return HeldOut("q4_0", bpb, 3.5, 1000, 256, "ab", "cd", provenance=Provenance.now(seed=0))


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    one = summary()
    path = one.write(tmp_path / "mine_summary.json")
    assert list(json.loads(path.read_text()))[:2] == ["kind", "version"]
    assert Summary.read(path) == one == read_any(path)
    assert one.model.size == "tiny"
    run = Run(study="models", stage="mine", seed=3, summary=one, held_out=held_out(0.7))
    assert Run.read(run.write(tmp_path / "3.json")) == run


def test_what_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(ValueError, match="not JSON compliant"):
        held_out(float("nan")).write(path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2 of the kind 'summary', newer than 1.*update"),
        ({"version": 0}, "version 0 of the kind 'summary', older than 1.*run the command"),
        ({"kind": "dream"}, "of the kind 'dream', which .* doesn't know"),
        ({"valid": {"bpb": "low"}}, r"Expected `float`, got `str` - at `\$.valid.bpb`"),
        ({"valid": 3}, r"Expected `object \| null`, got `int` - at `\$.valid`"),
        ({"colour": "red"}, "unknown field `colour`"),
        ({"model": None}, r"Expected `object`, got `null` - at `\$.model`"),
    ],
)
def test_what_cannot_be_read_says_where_and_why(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = summary().write(tmp_path / "mine_summary.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IteraError, match=f"(?s)'{path}'.*{message}"):
        read_any(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "JSON"),
        ("[" * 100_000, "Expected `object`"),
        ('{"name": "old", "valid": {}}', "missing required field `kind`"),
        ('{"kind": "held_out", "version": 1, "bpb": NaN}', "JSON"),
        ("\udcff", "JSON"),
    ],
)
def test_files_of_others(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x_summary.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(IteraError, match=message):
        read_any(path)


def test_a_shape_that_cannot_be_is_refused(tmp_path: Path) -> None:
    path = summary().write(tmp_path / "mine_summary.json")
    plain = json.loads(path.read_text())
    plain["model"]["config"]["n_kv_heads"] = 7
    path.write_text(json.dumps(plain))
    with pytest.raises(IteraError, match=f"'{path}'.*n_kv_heads=7: expected"):
        read_any(path)


def test_another_kind_is_refused(tmp_path: Path) -> None:
    path = held_out(0.7).write(tmp_path / "x.json")
    with pytest.raises(IteraError, match="of kind 'held_out': expected 'summary'"):
        Summary.read(path)
    with pytest.raises(IteraError, match="can't be read: No such file"):
        Summary.read(tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("found", "verdict", "text"),
    [
        (Measurement(9, 8.5, 9.5, 5), "met", "met"),
        (Measurement(9, 7.5, 9.5, 5), "not clear", "met, not clearly"),
        (Measurement(7, 6, 8.5, 5), "not clear", "missed, not clearly"),
        (Measurement(7, 6, 7.5, 5), "missed", "missed"),
        (Measurement.once(8), "met", "met"),
        (None, "not measured", "not measured"),
    ],
)
def test_targets_are_judged_by_the_interval(
    found: Measurement | None, verdict: str, text: str
) -> None:
    judged = Target("k", "label", "at least", 8, goal=100).judged(found)
    assert (judged.verdict, judged.verdict_text) == (verdict, text)
    assert judged.goal_verdict == (None if found is None else "missed")
    if found is not None:
        worse = Target("k", "label", "at least", 8).judged(found, reason="the quality is lower")
        assert worse.verdict == "missed" and worse.value == found.value


numbers = st.floats(allow_nan=False, allow_infinity=False)


ONE, WHOLE = held_out(0.7), summary()


@given(numbers, numbers, st.integers(0, 2**53), st.text(max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_finite_numbers_come_back_exactly(bpb: float, more: float, n: int, name: str) -> None:
    one = replace(ONE, bpb=bpb, bytes_per_token=more, bytes=n, name=name)
    with tempfile.TemporaryDirectory() as folder:
        path = one.write(Path(folder) / "x.json")
        found = HeldOut.read(path)
    assert found == one
    assert math.copysign(1, found.bpb) == math.copysign(1, bpb)


values = st.none() | st.booleans() | st.integers() | numbers | st.text(max_size=5) | st.just([])


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_value_anywhere_is_read_or_refused_with_our_error(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = WHOLE.write(Path(folder) / "mine_summary.json")
        plain = part = json.loads(path.read_text())
        while True:
            key = data.draw(st.sampled_from(sorted(part)))
            if not isinstance(part[key], dict) or not part[key] or data.draw(st.booleans()):
                break
            part = part[key]
        part[key] = data.draw(values)
        path.write_text(json.dumps(plain))
        try:
            found = read_any(path)
        except IteraError as error:
            assert str(path) in str(error)
        else:
            assert found.write(path) == path
