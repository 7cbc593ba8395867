"""Several processes that train together: the same model as one, stopped, resumed, killed.

`ranks.py` is what the processes do. What takes a minute is run by `make elastic`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from itera_lite.checkpoint.folder import load_checkpoint, load_training_state
from itera_lite.checkpoint.shards import load_shards
from itera_lite.config import TrainConfig, preset
from itera_lite.data.loader import TokenLoader
from itera_lite.data.prepare import prepare
from itera_lite.engine.check import check
from itera_lite.errors import CheckpointError, ConfigError, UsageError
from itera_lite.model import LanguageModel
from itera_lite.train.compute import SHARDED_FROM, Compute
from itera_lite.train.distributed import PeerFailed, World, peers
from itera_lite.train.loop import Trainer
from itera_lite.workers import Workers
from tests.train.ranks import FIRST_STOP, SECOND_STOP, SETTINGS, STEPS, TOKENS, run
from tests.train.small import make_small
from tests.train.test_train import curve

ITERA, TRANSFORMER = "itera_lite_tiny", "transformer_tiny"
ROOT = Path(__file__).parents[2]
TIMEOUT = 600  # seconds for several processes; a busy machine is slow
LOOPBACK = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
ELASTIC = "ITERA_ELASTIC"
elastic = pytest.mark.skipif(
    not os.environ.get(ELASTIC), reason="takes a minute: make elastic runs it"
)


def start(processes: int, scenario: str, text: Path, out: Path) -> None:
    """Run a scenario of ranks.py in so many processes on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    command += [*LOOPBACK, str(Path(__file__).with_name("ranks.py")), scenario, str(text), str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ITERA_TIMEOUT": str(TIMEOUT)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory) -> Path:
    """One process (folder ``one``), four and two: see ranks.py. Ends with a second resume, of a
    training by four processes and then two, by one process."""
    out = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        run(text, out / "one", model="both")
        start(4, "four", text, out)
        start(2, "two", text, out)
        if os.environ.get(ELASTIC):
            start(2, "undisturbed", text, out)
        run(text, out / "cut", resume=True)
    return out


def assert_same_curve(one: Path, other: Path, name: str) -> None:
    """The same losses up to float noise, which counts of tokens in experts amplify."""
    rows, others = curve(one, name), curve(other, name)
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    assert sum(bool(row["valid_loss"]) for row in rows) >= 2
    for a, b in zip(rows, others, strict=True):
        for key in ("train_loss", "valid_loss", "grad_norm", "expert_load_max"):
            if a[key]:
                rel = 2e-3 if key.endswith("loss") else 5e-2
                assert float(b[key]) == pytest.approx(float(a[key]), rel=rel), (a["step"], key)


@pytest.mark.parametrize(
    ("way", "name"), [("whole", ITERA), ("sharded", ITERA), ("sharded", TRANSFORMER)]
)
def test_four_processes_have_the_curve_of_one(trained, way, name):
    assert_same_curve(trained / "one", trained / way, name)


@pytest.mark.parametrize("way", ["cut", "cut whole"])
def test_resumed_by_other_numbers_of_processes_it_is_the_same_curve(trained, way):
    """Sharded by four, then by two, then whole in one; and whole in four, then sharded by two."""
    assert 0 < FIRST_STOP < SECOND_STOP < STEPS
    assert_same_curve(trained / "one", trained / way, ITERA)


def test_the_weights_went_where_those_of_one_process_went(trained):
    """Far nearer to them than to where they began: a curve at low rates would hide an optimizer
    that is a little wrong."""
    name = "model.safetensors"
    one = load_file(trained / "one" / "c" / f"{TRANSFORMER}-last" / name)
    other = load_file(trained / "sharded" / "c" / f"{TRANSFORMER}-last" / name)
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        torch.manual_seed(0)
        model = LanguageModel(preset("transformer", "tiny", SETTINGS["vocab_size"]))
        final, _ = load_checkpoint(trained / "one" / "c" / f"{TRANSFORMER}-last")
    moved = sum(
        float((a - b).detach().square().sum())
        for a, b in zip(model.parameters(), final.parameters(), strict=True)
    )
    apart = sum(float((one[key] - other[key]).square().sum()) for key in one)
    assert apart < 1e-3 * moved
    assert moved > 0


@pytest.mark.parametrize("way", ["whole", "sharded", "cut", "cut whole"])
def test_the_exported_folder_is_that_of_one_process(trained, way):
    """Whole tensors under the same names; the head is the embedding, which is there once."""
    for folder in (ITERA, f"{ITERA}-last"):
        one, other = (
            load_file(trained / which / "c" / folder / "model.safetensors")
            for which in ("one", way)
        )
        assert {name: value.shape for name, value in one.items()} == {
            name: value.shape for name, value in other.items()
        }
        embedding = "model.embed_tokens.weight"
        assert one[embedding].shape == (SETTINGS["vocab_size"], 64)
        assert torch.allclose(one[embedding], other[embedding], atol=2e-2)
    model, tokenizer = load_checkpoint(trained / way / "c" / ITERA)
    assert model.config.vocab_size == tokenizer.vocab_size


def test_a_sharded_state_has_a_file_of_each_process_and_no_pickle(trained):
    state = trained / "sharded" / "c" / f"{ITERA}-last" / "training_state"
    names = sorted(path.name for path in state.iterdir())
    shards = [f"shard-0000{rank}-model-00001-of-00001.safetensors" for rank in (1, 2, 3, 4)]
    assert names == [*shards, "state.json", "tensors.safetensors"]
    parts = [load_file(state / name) for name in shards]
    embedding = [part["exp_avg.embedding.weight"] for part in parts]
    assert [len(part) for part in embedding] == [76, 76, 76, 74]
    # What one process resumed from has none: it stored everything itself.
    names = [path.name for path in (trained / "cut" / "c" / f"{ITERA}-last").rglob("*shard*")]
    assert names == []


def test_itera_check_finds_that_a_sharded_state_fits(trained):
    for way, step in (("sharded", STEPS), ("cut whole", STEPS)):
        training = check(trained / way / "c" / f"{ITERA}-last").training
        assert training is not None and (training.step, training.problem) == (step, "")


def test_a_flipped_bit_or_a_missing_file_of_a_shard_is_named(trained, tmp_path):
    folder = shutil.copytree(trained / "sharded" / "c" / f"{ITERA}-last", tmp_path / "copy")
    load_training_state(folder)
    shard = folder / "training_state" / "shard-00003-model-00001-of-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"shard-00003.* is damaged: its content"):
        load_training_state(folder)
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"shard-00003.* can't be read: No such file"):
        load_training_state(folder)


def test_every_window_is_read_once_by_the_rank_whose_it_is(trained, text):
    dataset = prepare(str(text), vocab_size=SETTINGS["vocab_size"], quiet=True)
    by_rank = [json.loads((trained / f"windows-{rank}.json").read_text())[0] for rank in range(4)]
    steps = [len(batches) for batches in by_rank]
    assert steps == [STEPS] * 4
    alone = TokenLoader(dataset.tokens("train"), batch_size=8, seq_len=32, seed=0)
    for step in range(STEPS):
        expected = alone.next_positions()[:, 0].tolist()
        assert [start for batches in by_rank for start in batches[step]] == expected
        assert [len(batches[step]) for batches in by_rank] == [2] * 4


OTHERS = {key: value for key, value in SETTINGS.items() if key not in ("quiet", "workers")}
COMMAND = [
    *("--model", "itera", "--params", "200K", "--name", "run", "--tokens", TOKENS, "--quiet"),
    *(f"--{key.replace('_', '-')}={value}" for key, value in OTHERS.items()),
    "--workers=1",  # which change nothing
]


def launch(
    out: Path, text: Path, fault: str, *options: str, arguments: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """`itera train` under our torchrun.

    Args:
        fault: Python that every process runs before anything else.
        options: of torchrun; ``arguments``: more of `itera train`.
    """
    (out / "early").mkdir(parents=True, exist_ok=True)
    (out / "early" / "sitecustomize.py").write_text("import os\n" + fault)
    environment = os.environ | {"PYTHONPATH": f"{out / 'early'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "itera_lite.torchrun", *options]
    command += ["train", str(text), *COMMAND, *arguments]
    return subprocess.Popen(
        command, cwd=out, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


# Process 1 is killed in a step of its first start, when a state has been saved.
KILLED = """
if os.environ.get("RANK") == "1" and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
    from itera_lite.train.loop import Trainer
    original = Trainer._step
    def stepping(self):
        if self.state.step == 22:
            os.kill(os.getpid(), 9)
        return original(self)
    Trainer._step = stepping
"""
FAILS = """
if os.environ.get("RANK") == "1":
    from itera_lite.errors import DataError
    from itera_lite.data.loader import TokenLoader
    def failing(self):
        raise DataError("the windows of this process are gone")
    TokenLoader.next_positions = failing
"""
# Of a process whose end takes longer than the others need to notice the lost connection.
ENDS_SLOWLY = """
if os.environ.get("RANK") == "1":
    import time
    import torch.distributed as dist
    from itera_lite import torchrun
    original = torchrun.tell_launcher
    def telling(*arguments, **options):
        told = original(*arguments, **options)
        dist.destroy_process_group()
        time.sleep(20)
        return told
    torchrun.tell_launcher = telling
"""


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def assert_undisturbed(trained: Path, out: Path) -> None:
    """The weights are bit for bit those of two processes that nobody disturbed, so that every
    window was trained on once."""
    name = "run-last/model.safetensors"
    whole = (trained / "undisturbed" / "c" / name).read_bytes()
    assert (out / "checkpoints" / name).read_bytes() == whole
    state = json.loads((out / "checkpoints" / "run-last/training_state/state.json").read_text())
    assert state["state"]["step"] == STEPS and state["loader"]["position"] == 8 * STEPS


@elastic
@pytest.mark.parametrize("rendezvous", ["static", "c10d"])
def test_a_killed_rank_is_started_again_and_nothing_is_lost(trained, text, tmp_path, rendezvous):
    options = ["--nproc-per-node", "2", "--max-restarts", "1"]
    if rendezvous == "static":
        options += ["--master-addr", "127.0.0.1", "--master-port", free_port()]
    else:
        options += LOOPBACK
    process = launch(tmp_path, text, KILLED, *options, arguments=("--resume",))
    _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, said
    assert_undisturbed(trained, tmp_path)


@pytest.mark.parametrize("end", ["", ENDS_SLOWLY])
def test_a_rank_that_fails_ends_all_with_its_message_and_exit_code(end, text, tmp_path):
    process = launch(tmp_path, text, FAILS + end, "--nproc-per-node", "2", *LOOPBACK)
    _, said = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1, said
    assert said.strip().splitlines()[-1] == (
        "itera: error: process 1: the windows of this process are gone"
    )
    assert said.count("itera: error") == 1 and "Traceback" not in said


@elastic
def test_a_killed_launcher_takes_its_processes_with_it_and_another_joins(trained, text, tmp_path):
    """Two launchers of a process each, as on two machines; the second is killed, and started
    again as a scheduler does."""
    port = free_port()
    options = ["--nproc-per-node", "1", "--nnodes", "2", "--max-restarts", "3", "--rdzv-id", "job"]
    options += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    options += ["--local-addr", "127.0.0.1"]
    options += ["--rdzv-conf", "keep_alive_interval=1,keep_alive_max_attempt=3,last_call_timeout=1"]
    # Each step takes a while, so that there is time to kill a launcher in.
    slow = "import time\nfrom itera_lite.train.loop import Trainer\noriginal = Trainer._step\n"
    slow += "Trainer._step = lambda self: (time.sleep(0.2), original(self))[1]\n"
    slow = f'if "RANK" in os.environ:\n    exec({slow!r})\n'
    first = launch(tmp_path, text, slow, *options, arguments=("--resume",))
    until = time.monotonic() + TIMEOUT
    while socket.socket().connect_ex(("127.0.0.1", int(port))) and time.monotonic() < until:
        time.sleep(0.1)
    second = launch(tmp_path, text, slow, *options, arguments=("--resume",))
    state = tmp_path / "checkpoints" / "run-last" / "training_state" / "state.json"

    def step() -> int:
        try:
            return int(json.loads(state.read_text())["state"]["step"])
        except (OSError, ValueError):
            return 0

    while not step() and time.monotonic() < until:
        time.sleep(0.05)
    children = Path(f"/proc/{second.pid}/task/{second.pid}/children").read_text().split()
    second.send_signal(signal.SIGKILL)
    second.wait()
    assert children
    gone = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < gone:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    third = launch(tmp_path, text, slow, *options, arguments=("--resume",))
    for process in (first, third):
        _, said = process.communicate(timeout=TIMEOUT)
        assert process.returncode == 0, said
    assert_undisturbed(trained, tmp_path)


def test_restarts_need_resume(text, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(UsageError, match=r"--max-restarts.*add --resume"):
        run(text, tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_the_size_of_the_model_decides_whether_it_is_sharded():
    def compute(size: int, shard: bool | None = None) -> Compute:
        return Compute(World(size=size), Workers(), True, None, None, shard=shard)

    tiny, base = (preset("itera", size, 2048) for size in ("tiny", "base"))
    reference = preset("gpt2", "reference", 32_768)
    assert SHARDED_FROM == 8e6
    assert [compute(2).shards(shape) for shape in (tiny, base, reference)] == [False, True, True]
    assert compute(2, True).shards(tiny) and not compute(2, False).shards(base)
    assert not compute(1, True).shards(base)


def test_the_share_of_the_peak_counts_the_peak_of_every_process():
    """Two on each of two machines, with 100 FLOP/s each: 4 x 25 FLOP/s are a quarter of it."""
    trainer = SimpleNamespace(
        cost=SimpleNamespace(flops_train=10),
        compute=SimpleNamespace(precision=SimpleNamespace(peak=100)),
        world=World(size=4, local_size=2),
    )
    assert Trainer.mfu(trainer, 10) == pytest.approx(0.25)


def test_processes_with_another_text_are_refused(monkeypatch):
    world = World(rank=1, size=2)
    monkeypatch.setattr(World, "_gather", lambda self, own: [own, own | {"text": "other"}])
    with pytest.raises(ConfigError, match="process 1 has text other, process 0 has same"):
        world.check_same(text="same", version=1)
    monkeypatch.setattr(World, "_gather", lambda self, own: [own, own])
    world.check_same(text="same", version=1)


def test_only_a_lost_connection_is_another_processs_fault():
    gloo = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer"
    with pytest.raises(PeerFailed, match="Connection closed by peer"), peers():
        raise RuntimeError(gloo)
    with pytest.raises(RuntimeError, match="shapes"), peers():
        raise RuntimeError("shapes (2, 3) and (4, 5) can't be multiplied")


def test_a_connection_lost_while_parts_are_read_is_no_damage(monkeypatch, tmp_path):
    def lost(*_, **__):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")

    monkeypatch.setattr("torch.distributed.checkpoint.state_dict_loader.load", lost)
    with pytest.raises(PeerFailed, match="Connection closed by peer"), peers():
        load_shards(tmp_path, {})


def test_micro_batches_of_all_processes_have_the_same_rows():
    """So that their sums have one scale, and FSDP2's collectives meet."""
    from itera_lite.train.step import rows_of_part

    config = TrainConfig(batch_size=16, seq_len=256)
    assert rows_of_part(config, 16, "cpu") == 4
    assert rows_of_part(config, 2, "cpu") == 2
    assert rows_of_part(config, 16, "cuda:0") == 16
