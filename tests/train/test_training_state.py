"""A training state that is damaged, or another's, is one clear error with a way out."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from itera_lite.commands.train import train
from itera_lite.errors import CheckpointError
from tests.other_user import as_other_user, shared_folder
from tests.train.small import make_small

SETTINGS = {"vocab_size": 300, "batch_size": 4, "seq_len": 32, "workers": 1, "quiet": True}
NAME = "itera_lite_tiny-last"


def run(text, out, **overrides):
    return train(
        str(text), checkpoints=out / "c", results=out / "r", model="itera", tokens="2K",
        precision="fp32", **SETTINGS, **overrides,
    )  # fmt: skip


@pytest.fixture(scope="module")
def saved(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch)
        run(text, out)
    return out


@pytest.fixture
def inner(saved, tmp_path, small):
    """The training state of a copy of a run, for a test to damage."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    return tmp_path / "c" / NAME / "training_state"


def refused(text, inner) -> str:
    with pytest.raises(CheckpointError) as error:
        run(text, inner.parents[2], resume=True)
    return str(error.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ([], []),
        (["identity"], None),
        (["loader"], 3),
        (["state", "step"], "many"),
        (["identity", "model", "new_field"], 1),
        (["identity", "model", "d_model"], 65),
        (["state", "new_field"], 1),
        (["state", "rows"], {}),
        (["window"], {}),
        (["window", "load"], [1.0]),
        (["scoring"], 3),
        (["scoring", "patience"], "many"),
    ],
)
def test_a_state_with_other_parts(path, value, text, inner):
    file = inner / "state.json"
    whole = json.loads(file.read_text())
    del whole["sha256"], whole["version"]  # which other programs and versions don't write
    holder = whole
    for key in path[:-1]:
        holder = holder[key]
    if path:
        holder[path[-1]] = value
    file.write_text(json.dumps(whole if path else value))
    said = refused(text, inner)
    assert "damaged" in said and ("--overwrite" in said or "state.json" in said)


@pytest.mark.parametrize(("part", "field"), [("train", "beta2"), ("model", "d_state")])
def test_a_state_of_an_older_version(part, field, text, inner):
    file = inner / "state.json"
    whole = json.loads(file.read_text())
    del whole["sha256"], whole["version"]
    del whole["identity"][part][field]
    file.write_text(json.dumps(whole))
    assert "older version" in refused(text, inner)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("rng"),
        lambda t: t.update(rng=torch.zeros(3)),
        lambda t: t.update({"adam.999.exp_avg": torch.zeros(3)}),
        lambda t: t.update({"adam.0.exp_avg": torch.zeros(3)}),
        lambda t: [t.pop(name) for name in list(t) if name.startswith("momentum")],
    ],
)
def test_tensors_of_another_run(change, text, inner):
    file = inner / "tensors.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    assert "Train anew with --overwrite" in refused(text, inner)


def test_files_that_are_cut_missing_or_closed(text, inner):
    file = inner / "tensors.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    assert f"'{file}' is damaged" in refused(text, inner)
    file.unlink()
    assert f"'{file}' can't be read: No such file" in refused(text, inner)
    state = inner / "state.json"
    for text_of in ("", "[" * 50_000, '{"identity": 1'):
        state.write_text(text_of)
        said = refused(text, inner)
        assert str(inner) in said and "damaged" in said


def test_a_state_that_may_not_be_read_is_not_called_damaged(saved):
    from itera_lite.checkpoint.folder import load_training_state

    with shared_folder() as folder:
        shutil.copytree(saved / "c" / NAME, folder / NAME)
        for name in ("state.json", "tensors.safetensors"):
            path = folder / NAME / "training_state" / name
            path.chmod(0)
            with as_other_user(), pytest.raises(CheckpointError, match="Permission denied"):
                load_training_state(folder / NAME)
            path.chmod(0o644)
