"""The callable for Ray Data: alone, and on two nodes of which one's worker is killed."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from itera_lite.cluster.ray import BitsPerByte
from itera_lite.engine.scorer import Scorer
from itera_lite.errors import DataError, UsageError
from tests.cluster.conftest import TEXTS

pa = pytest.importorskip("pyarrow", reason="needs the extra `cluster`")


def table(texts: list[str | None]) -> Any:
    return pa.table({"id": range(len(texts)), "text": texts})


def test_a_batch_gets_a_column(model_file: Path, other_file: Path) -> None:
    """The other columns stay, in type and value; a null and an empty text get a null."""
    batch = table([*TEXTS[:9], None, ""])
    found = BitsPerByte(model_file)(batch)
    assert found.drop_columns("bits_per_byte") == batch
    assert found.column("bits_per_byte").to_pylist() == [
        *Scorer(model_file).score(TEXTS[:9]),
        None,
        None,
    ]
    by_surprise = BitsPerByte(model_file, by="surprise")(batch).column("surprise").to_pylist()
    assert by_surprise[:9] == Scorer(model_file, by="surprise").score(TEXTS[:9])
    options = {"text_column": "body", "window": 16}
    both = BitsPerByte(str(model_file), bad=str(other_file), **options)
    found = both(batch.rename_columns(["id", "body"]))
    assert found.column("difference").to_pylist()[:9] == Scorer(
        model_file, bad=other_file, window=16
    ).score(TEXTS[:9])


def test_wrong_batches_are_errors(model_file: Path) -> None:
    score = BitsPerByte(model_file)
    with pytest.raises(UsageError, match='batch_format="pyarrow"'):
        score({"text": ["a"]})
    with pytest.raises(UsageError, match="a column 'bits_per_byte' already"):
        score(score(table(["a"])))
    with pytest.raises(DataError, match="no column 'text', but id"):
        score(table(["a"]).drop_columns("text"))
    with pytest.raises(DataError, match="of type int64: expected strings"):
        score(pa.table({"text": [1]}))


PATIENCE = 200  # seconds for a node to begin


def patient(find: Callable[..., Any]) -> Callable[..., Any]:
    """Ray's search for a node that begins, which Ray itself gives up after half a minute."""

    def found(*given: Any) -> Any:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return find(*given)
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    return found


def begun(cluster: Callable[[], Any], node: dict[str, Any]) -> Any:
    """A cluster of two nodes. On a busy machine a node's process may end while it starts; Ray
    doesn't start it again."""
    for left in (2, 1, 0):
        made = cluster()
        try:
            for _ in range(2):
                made.add_node(**node)
            return made
        except Exception:
            made.shutdown()
            if not left:
                raise
    raise AssertionError


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ray on two nodes of this machine, a core each; ended in any case."""
    ray = pytest.importorskip("ray", reason="needs the extra `cluster`")
    from ray._private import services
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "0")  # a full machine kills no worker
    monkeypatch.setenv("RAY_prestart_worker_first_driver", "0")  # no process that isn't needed
    monkeypatch.setenv("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    for patience in (  # seconds, which a busy machine may need
        "gcs_server_port_wait_time_s",
        "gcs_rpc_server_reconnect_timeout_s",
        "worker_register_timeout_seconds",
    ):
        monkeypatch.setenv(f"RAY_{patience}", "600")
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "600000")
    monkeypatch.setenv("RAY_health_check_failure_threshold", "100")
    monkeypatch.setattr(services, "get_node", patient(services.get_node))
    folder = tempfile.mkdtemp(prefix="ray-")  # not pytest's: the names of sockets must be short
    monkeypatch.setenv("RAY_TMPDIR", folder)
    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = None
    try:
        cluster = begun(Cluster, node)
        ray.init(address=cluster.address, log_to_driver=False)
        # Else the first worker may have done all before the second one has started.
        monkeypatch.setattr(ray.data.DataContext.get_current(), "wait_for_min_actors_s", 600)
        yield ray
    finally:
        ray.shutdown()
        if cluster:
            cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def test_two_nodes_and_a_killed_worker(two_nodes: Any, model_file: Path, tmp_path: Path) -> None:
    """The output is that of one process: no text lost, none doubled."""
    ray = two_nodes
    marker = tmp_path / "killed"

    class Killed(BitsPerByte):
        """Scores, and adds the node and process of each row; one process kills itself, once."""

        batches = 0

        def __call__(self, batch: Any) -> Any:
            self.batches += 1
            time.sleep(0.05)  # so that both nodes get batches
            found = super().__call__(batch)
            if self.batches == 3:
                try:
                    os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    pass
                else:
                    marker.write_text(str(os.getpid()))
                    os.kill(os.getpid(), signal.SIGKILL)
            where = [f"{ray.get_runtime_context().get_node_id()} {os.getpid()}"] * len(batch)
            return found.append_column("where", pa.array(where))

    whole = table(list(TEXTS))
    blocks = [whole.slice(begin, 10) for begin in range(0, len(TEXTS), 10)]
    rows = (
        ray.data.from_blocks(blocks)
        .map_batches(
            Killed,
            fn_constructor_kwargs={"model": str(model_file)},
            batch_format="pyarrow",
            batch_size=10,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=2),
        )
        .take_all()
    )
    rows.sort(key=lambda row: row["id"])
    expected = Scorer(model_file).score(TEXTS)
    assert [(row["id"], row["text"], row["bits_per_byte"]) for row in rows] == [
        (i, text, score) for i, (text, score) in enumerate(zip(TEXTS, expected, strict=True))
    ]
    killed = marker.read_text()
    where = {tuple(row["where"].split()) for row in rows}
    assert len({node for node, _ in where}) == 2, "both nodes worked"
    assert len({pid for _, pid in where} | {killed}) >= 3, "another process took over"
