"""Check that result files are read as they were written, and why others are refused."""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from itera_lite.config import preset
from itera_lite.errors import IteraError
from itera_lite.machine.provenance import Provenance
from itera_lite.model.cost import cost, describe
from itera_lite.records import (
    KINDS,
    BeforeAfter,
    Evaluation,
    Flops,
    HeldOut,
    Measured,
    Part,
    Record,
    Run,
    Seeds,
    Source,
    Summary,
    ValidScore,
    VocabularyBits,
    VocabularyChange,
    is_record,
    kind_of,
    read_any,
)
from itera_lite.stats.comparison import Measurement
from itera_lite.stats.targets import Target

SHAPES = Path(__file__).parent / "golden" / "records.txt"


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


def test_names_that_are_not_utf8_can_be_read_again(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    one = summary()
    one.model.name, one.model.made_from = name, [Source(name, "start")]
    one.provenance.checkpoints = {name: "ab"}
    found = Summary.read(one.write(tmp_path / "x.json"))
    assert found.model.name == found.model.made_from[0].name == "caf\ufffd"
    assert found.provenance.checkpoints == {"caf\ufffd": "ab"}


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


def shapes() -> str:
    """Every kind of file: its version, and each field with its type, bounds and default."""
    _, parts = msgspec.json.schema_components(list(KINDS.values()), ref_template="{name}")
    lines = [
        f"{kind} is version {field.default}"
        for kind, record in KINDS.items()
        for field in msgspec.structs.fields(record)
        if field.name == "version"
    ]
    for name, part in parts.items():
        for field, shape in part.get("properties", {}).items():
            needed = "required" if field in part["required"] else "optional"
            lines.append(f"{name}.{field}: {needed} {json.dumps(shape)}")
        assert part.get("additionalProperties", False) is False, name
    return "\n".join(sorted(lines)) + "\n"


def test_the_shape_of_every_file_is_the_one_that_was_published() -> None:
    """A field that goes, a type, a unit in a name: files of others can't be read any more.

    Where that is meant, raise the ``version`` of the kind; then, or where a field with a default
    is new, `python -m tests.test_records` writes the shapes again.
    """
    assert shapes().splitlines() == SHAPES.read_text("utf-8").splitlines()


def test_a_file_begins_with_its_kind_and_ends_with_its_provenance(tmp_path: Path) -> None:
    path = held_out(0.7).write(tmp_path / "x.json")
    plain = json.loads(path.read_text())
    assert [*plain][:3] == ["kind", "version", "name"] and [*plain][-1] == "provenance"
    assert (plain["kind"], plain["version"], plain["bpb"]) == ("held_out", 1, 0.7)
    assert is_record(path)


def test_defaults_are_written_of_a_record_and_not_of_its_parts(tmp_path: Path) -> None:
    """A file has every field of its kind, so that a reader sees what wasn't measured."""
    one = summary()
    assert isinstance(one.model, Part) and one.model.made_from == []
    plain = json.loads(one.write(tmp_path / "x.json").read_text())
    assert {*plain} == {"kind", *Summary.__struct_fields__}
    assert plain["training"] is None
    assert "made_from" not in plain["model"]


def test_another_version_is_refused_where_it_is_made_too() -> None:
    with pytest.raises(ValueError, match=r"^version 2: expected 1$"):
        msgspec.structs.replace(held_out(0.7), version=2)


def test_what_begins_like_a_record(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert not is_record(path)
    begin = '{\n  "kind": "KIND",\n  "version": 1'
    for text, expected in (
        (begin.replace("KIND", "summary"), True),
        (begin.replace("KIND", "dream"), False),
        ("\n" + begin.replace("KIND", "summary"), False),
        ('{"kind": "summary", "version": 1', False),
        (begin.replace("KIND", "summary").replace("version", "name"), False),
        (begin.replace("KIND", "x" * 80), False),
        ("", False),
    ):
        path.write_text(text)
        assert is_record(path) is expected, text
    longest = max(KINDS, key=len)
    path.write_text(begin.replace("KIND", longest))
    assert is_record(path)


def test_kinds_are_named_by_their_tag() -> None:
    assert kind_of(Summary) == "summary" and kind_of(Run) == "run"
    assert kind_of(Measured) == "Measured" and kind_of(Record) == "Record"
    assert all(kind_of(record) == kind for kind, record in KINDS.items())
    assert {"summary", "run", "ladder", "seeds", "teacher_comparison"} <= KINDS.keys()


def test_a_part_is_true_whatever_it_holds() -> None:
    assert bool(Part()) is bool(BeforeAfter(0.0, 0.0)) is True


def test_the_parts_of_a_run_are_those_that_there_are() -> None:
    one, two = summary(), held_out(0.7)
    assert Run(study="s", stage="t", seed=0).parts == {}
    assert Run(study="s", stage="t", seed=0, summary=one, held_out=two).parts == {
        "summary": one, "held_out": two,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "held_out", "version": 3}',
         "has version 3 of the kind 'held_out', newer than 1, which is read here: update "
         "Itera-Lite"),
        ('{"kind": "held_out", "version": 0}',
         "has version 0 of the kind 'held_out', older than 1, which is read here: run the command "
         "that wrote it again"),
        ('{"kind": "x", "version": 1}',
         f"is of the kind 'x', which this version of Itera-Lite doesn't know: expected "
         f"{', '.join(KINDS)}. Update Itera-Lite, or leave the file out"),
        ('{"kind": "seeds", "version": 1}',
         "isn't a result file as this version of Itera-Lite writes it: Object missing required "
         "field `runs`. Run the command that wrote it again, or leave the file out"),
        ("{",
         "can't be read as JSON: Input data was truncated. Delete it and run the command that made "
         "it"),
    ],
)  # fmt: skip
def test_each_refusal_says_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(IteraError) as caught:
        read_any(path)
    assert str(caught.value) == f"'{path}' {message}"


def test_a_missing_file_and_another_kind_in_full(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(IteraError) as caught:
        read_any(path)
    assert str(caught.value) == f"'{path}' can't be read: No such file or directory"
    assert isinstance(caught.value.__cause__, OSError)
    held_out(0.7).write(path)
    with pytest.raises(IteraError) as caught:
        Evaluation.read(path)
    assert str(caught.value) == (
        f"'{path}' is a record of kind 'held_out': expected 'evaluation'. Name another file"
    )
    assert HeldOut.read(path) == Measured.read(path)


def test_numbers_that_cannot_be_are_refused(tmp_path: Path) -> None:
    seeds = Seeds(runs=[], provenance=Provenance.now())
    path = seeds.write(tmp_path / "seeds.json")
    assert Seeds.read(path).speeds == []
    record = summary()
    for total in (0, -1, 2**53):
        record.model.params.total = total
        record.write(path)
        with pytest.raises(IteraError, match=r"model\.params\.total"):
            read_any(path)
    record.model.params.total = 2**53 - 1
    assert Summary.read(record.write(path)).model.params.total == 2**53 - 1


if __name__ == "__main__":
    SHAPES.write_text(shapes(), "utf-8")
