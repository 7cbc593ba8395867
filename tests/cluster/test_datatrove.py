"""The step for datatrove, in its local executor: the numbers of `itera score`, task by task."""

import gzip
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from itera_lite.commands.score import score_lines
from itera_lite.engine.scorer import Scorer
from itera_lite.errors import CheckpointError, UsageError
from tests.cluster.conftest import TEXTS

pytest.importorskip("datatrove", reason="needs the extra `cluster`")
pytest.importorskip("orjson", reason="datatrove's JSON lines need it")

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from itera_lite.cluster.datatrove import BitsPerByteFilter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four files of JSON lines, one compressed."""
    (folder := tmp_path / "texts").mkdir()
    for number in range(4):
        lines = [
            json.dumps({"text": text, "id": f"{number}-{i}", "n": i})
            for i, text in enumerate(TEXTS[number::4])
        ]
        data = "".join(f"{line}\n" for line in lines).encode()
        (folder / f"{number}.jsonl").write_bytes(data)
    packed = folder / "3.jsonl"
    packed.with_suffix(".jsonl.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    return folder


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """The documents that JsonlWriter wrote, by id."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.jsonl.gz")):
        for line in gzip.decompress(path.read_bytes()).splitlines():
            record = json.loads(line)
            assert record["id"] not in found, "no document twice"
            found[record["id"]] = record
    return found


def scores_of(folder: Path, model: Path, into: Path) -> dict[str, float]:
    """What `itera score` gives the documents of a folder, by id."""
    found: dict[str, float] = {}
    for path in sorted(folder.iterdir()):
        output = into / f"{path.name}.scored.jsonl"
        score_lines(path, checkpoint=model, output=output)
        for line in output.read_text().splitlines():
            record = json.loads(line)
            found[record["id"]] = record["bits_per_byte"]
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_tasks_give_what_the_verb_gives(
    workers: int, folder: Path, model_file: Path, tmp_path: Path
) -> None:
    """Kept and dropped documents, their numbers, their other fields, datatrove's statistics."""
    expected = scores_of(folder, model_file, tmp_path)
    assert len(expected) == len(TEXTS)
    most = sorted(expected.values())[len(TEXTS) // 3]
    kept, dropped, logs = tmp_path / "kept", tmp_path / "dropped", tmp_path / "logs"
    step = BitsPerByteFilter(
        model_file, max_bits=most, batch_size=7, exclusion_writer=JsonlWriter(str(dropped))
    )
    LocalPipelineExecutor(
        [JsonlReader(str(folder)), step, JsonlWriter(str(kept))],
        tasks=3,
        workers=workers,
        logging_dir=str(logs),
    ).run()

    found, left_out = records(kept), records(dropped)
    assert found.keys() | left_out.keys() == expected.keys()
    assert found.keys() == {id for id, bits in expected.items() if bits <= most}
    for id, record in (found | left_out).items():
        number, _, i = id.partition("-")
        assert record["text"] == TEXTS[int(number) :: 4][int(i)]
        assert record["metadata"]["n"] == int(i)
        assert record["metadata"]["bits_per_byte"] == expected[id], "to the last bit"
    assert {r["metadata"]["filter_reason"] for r in left_out.values()} == {"above_max_bits"}

    (stats,) = (
        step["stats"]
        for step in json.loads((logs / "stats.json").read_text())
        if "Itera-Lite" in step["name"]
    )
    assert stats["total"] == len(TEXTS)
    assert stats["forwarded"] == len(found) and stats["dropped"] == len(left_out)
    assert stats["dropped_above_max_bits"] == len(left_out)
    assert stats["bits_per_byte"]["mean"] == pytest.approx(mean(expected.values()))


def test_the_difference_of_two_models(model_file: Path, other_file: Path) -> None:
    step = BitsPerByteFilter(model_file, bad=other_file, max_bits=0.0)
    documents = [Document(text, str(i)) for i, text in enumerate([*TEXTS[:20], ""])]
    results = step.filter_batch(documents)
    scores = [document.metadata["difference"] for document in documents]
    assert scores == step.scorer.score([document.text for document in documents])
    assert results[-1] == (False, "empty_text") and scores[-1] is None
    assert [result is True for result in results[:-1]] == [score <= 0 for score in scores[:-1]]
    assert step.filter(documents[0]) == results[0]


def test_by_surprise(model_file: Path) -> None:
    scores = Scorer(model_file, by="surprise").score(TEXTS[:20])
    most = sorted(scores)[5]
    step = BitsPerByteFilter(model_file, by="surprise", max_bits=most)
    documents = [Document(text, str(i)) for i, text in enumerate(TEXTS[:20])]
    results = step.filter_batch(documents)
    assert [document.metadata["surprise"] for document in documents] == scores
    assert [result is True for result in results] == [score <= most for score in scores]


def test_without_a_limit_all_are_kept(model_file: Path) -> None:
    step = BitsPerByteFilter(model_file, max_bits=None)
    assert step.filter_batch([Document("a", "1"), Document("", "2")]) == [True, True]


def test_mistakes_show_before_a_task_is_sent(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no model at"):
        BitsPerByteFilter(tmp_path / "none.gguf", max_bits=1.0)
    with pytest.raises(UsageError, match="batch_size=0"):
        BitsPerByteFilter(model_file, max_bits=1.0, batch_size=0)


def test_without_datatrove_the_extra_is_named() -> None:
    code = "import sys; sys.modules['datatrove'] = None; import itera_lite.cluster.datatrove"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "MissingExtra" in done.stderr and "pip install 'itera-lite[cluster]'" in done.stderr
