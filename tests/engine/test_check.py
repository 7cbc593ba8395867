"""`itera check`: what is whole is described, what isn't ends with its first reason."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from itera_lite import cli
from itera_lite.checkpoint.folder import load_checkpoint, save_checkpoint
from itera_lite.commands.train import train
from itera_lite.config import ModelConfig
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.engine import Model
from itera_lite.engine.check import check
from itera_lite.engine.find import BOX
from itera_lite.errors import CheckpointError, IteraError, ModelFileError
from itera_lite.export.gguf import export_gguf
from itera_lite.files import write_json
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from tests.native.gguf_bytes import STRING, scalar
from tests.native.gguf_models import llama
from tests.native.hostile import EITHER, GROUPS, valid
from tests.train.small import make_small

pytestmark = pytest.mark.filterwarnings("ignore::itera_lite.errors.IteraWarning")


@pytest.fixture
def folder(tiny_pair: dict[str, Path], tmp_path: Path) -> Path:
    """A checkpoint with two GGUF files in it."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_pair["itera_lite_test"], folder)
    export_gguf(folder, "f16")
    export_gguf(folder, "f32", format="gguf.gz")
    return folder


def test_the_facts_of_a_checkpoint_and_its_files(folder: Path) -> None:
    model, tokenizer = load_checkpoint(folder)
    counts = cost(model.config)
    checked = check(folder)
    assert (checked.kind, checked.architecture) == ("checkpoint", "granitemoehybrid")
    assert checked.parameters == counts.params_total
    assert checked.active_parameters == counts.params_active < counts.params_total
    assert checked.tokenizer_sha256 == tokenizer.sha256
    assert checked.bytes == (folder / "model.safetensors").stat().st_size
    stored = checked.types["F32"]
    assert stored.weights == counts.params_total and stored.bytes == 4 * stored.weights
    assert checked.training is None
    assert set(checked.files) == {"model-f16.gguf", "model-f32.gguf.gz"}
    for name, file in checked.files.items():
        assert file == check(folder / name)
        assert file.architecture == "granitehybrid"
        assert file.parameters == counts.params_total
        assert (file.vocab_size, file.context) == (tokenizer.vocab_size, model.config.max_seq_len)
        assert file.tokenizer_sha256 == tokenizer.sha256
        assert file.bytes == (folder / name).stat().st_size
    assert checked.files["model-f32.gguf.gz"].kind == "gguf.gz"
    assert checked.files["model-f16.gguf"].types["F16"].weights > 0


def test_the_model_in_the_box() -> None:
    (path,) = BOX.glob("*.gguf*")
    checked = check(path)
    assert checked.parameters == 1_805_240  # as its README has it
    assert checked.vocab_size == 2048 and checked.bytes == path.stat().st_size


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_arent_finite(folder: Path, value: float) -> None:
    (folder / "model-f16.gguf").unlink()
    plain = gzip.decompress((folder / "model-f32.gguf.gz").read_bytes())
    weights = load_file(folder / "model.safetensors")
    norm = weights["model.norm.weight"]
    at = plain.index(norm.numpy().tobytes())
    file = folder.parent / "broken.gguf"
    file.write_bytes(plain[:at] + np.float32(value).tobytes() + plain[at + 4 :])
    with pytest.raises(ModelFileError, match=r"'output_norm.weight' has 1 weights that are NaN"):
        check(file)
    norm[3] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"'model.norm.weight' in .* aren't finite"):
        check(folder)


@pytest.mark.parametrize("compressed", ["gguf", "gguf.gz"])
def test_a_gpt2_and_its_file_which_the_engine_doesnt_run(tmp_path: Path, compressed: str) -> None:
    shape = ModelConfig(
        "gpt2", "a", vocab_size=257, d_model=32, head_dim=16, n_kv_heads=2, d_ff=64, max_seq_len=64
    )
    tokenizer = Tokenizer.train([b"text"], 256)
    folder = save_checkpoint(tmp_path / "gpt2", LanguageModel(shape), tokenizer)
    file = export_gguf(folder, "f16", format=compressed).path
    checked = check(folder)
    assert checked.architecture == "gpt2"
    inside = checked.files[file.name]
    assert (inside.architecture, inside.vocab_size, inside.context) == ("gpt2", 257, 64)
    with pytest.raises(ModelFileError, match="gpt2"):
        check(file)
    if compressed == "gguf":
        data = file.read_bytes()
        at = data.rindex(LanguageModel(shape).norm.weight.detach().numpy().tobytes())
        file.write_bytes(data[:at] + np.float32("nan").tobytes() + data[at + 4 :])
        with pytest.raises(ModelFileError, match="holds numbers that aren't finite"):
            check(folder)


@pytest.mark.parametrize("key", ["general.name", "itera.unit", b"min\xe9"])
def test_a_text_that_is_not_utf8_is_an_error(key: str | bytes, tmp_path: Path) -> None:
    """The engine reads such a file, for it needs none of these texts."""
    draft = llama()
    draft.keys.append((key, scalar(STRING, b"caf\xe9")))
    (path := tmp_path / "model.gguf").write_bytes(draft.render())
    Model.load(path)
    with pytest.raises(ModelFileError, match=r"model\.gguf: its keys or tensors aren't .*utf-8"):
        check(path)


def alter_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def drop_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def swap_tokens(folder: Path) -> None:
    """Two tokens of a GGUF file change places, which its hash of the tokenizer shows."""
    path = folder / "model-f16.gguf"
    data = path.read_bytes()
    tokens = data.index(b"tokenizer.ggml.tokens")
    one, two = (b"\x01" + b"\0" * 7 + letter for letter in (b"a", b"b"))
    a, b = data.index(one, tokens), data.index(two, tokens)
    changed = bytearray(data)
    changed[a : a + 9], changed[b : b + 9] = two, one
    path.write_bytes(bytes(changed))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut weights": (lambda f: cut(f / "model.safetensors"), "is damaged"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no model.safetensors"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "expected a tokenizer.json"),
    "no config": (lambda f: (f / "config.json").unlink(), "but holds GGUF files: name one"),
    "a tensor less": (drop_a_tensor, "it lacks 'model.norm.weight'"),
    "another shape": (lambda f: alter_config(f, intermediate_size=32), "has the shape"),
    "another family": (
        lambda f: alter_config(f, model_type="mistral"),
        "is a model of the family 'mistral': Itera-Lite reads gpt2, llama, granitemoehybrid",
    ),
    "a cut file": (lambda f: cut(f / "model-f16.gguf"), "model-f16.gguf"),
    "a cut compressed file": (lambda f: cut(f / "model-f32.gguf.gz"), "model-f32.gguf.gz"),
    "changed tokens": (swap_tokens, "the tokenizer in it was changed"),
    "no sampling": (
        lambda f: (f / "generation_config.json").write_text('{"top_p": 7}'),
        "top_p is 7",
    ),
    "a state without its parts": (
        lambda f: write_json(f / "training_state/state.json", {}),
        "it lacks identity",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_the_first_reason_of_what_is_broken(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, told = BROKEN[name]
    damage(folder)
    assert cli.main(["check", str(folder), "--json"]) == 1
    out, err = capsys.readouterr()
    assert err.startswith("itera: error: ") and told in err and err.count("\n") == 1
    assert json.loads(out) == {
        "path": str(folder),
        "whole": False,
        "problem": err.removeprefix("itera: error: ").rstrip("\n"),
    }


def test_a_file_of_an_older_tokenizer_is_found(folder: Path, save_gguf: Path) -> None:
    shutil.copy(save_gguf, folder / "other.gguf")
    with pytest.raises(CheckpointError, match="has another tokenizer than the checkpoint"):
        check(folder)


@pytest.fixture
def save_gguf(tmp_path: Path) -> Path:
    """A GGUF file of another model."""
    path = tmp_path / "other.gguf"
    path.write_bytes(next(iter(valid().values())))
    return path


def test_json_and_text_have_the_same_facts(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["whole"] is True and facts["parameters"] == check(folder).parameters
    assert facts["files"]["model-f16.gguf"]["kind"] == "gguf"
    assert cli.main(["check", str(folder)]) == 0
    text = capsys.readouterr().out
    assert f"{facts['parameters']:,} parameters" in text and facts["tokenizer_sha256"] in text


def test_a_saved_training_fits_or_the_reason_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small(monkeypatch)
    text = tmp_path / "text.txt"
    text.write_text("the cat sees a dog.\n" * 300)
    train(
        str(text),
        model="itera",
        tokens="2K",
        vocab_size=260,
        batch_size=4,
        seq_len=32,
        workers=1,
        precision="fp32",
        quiet=True,
        name="run",
        checkpoints=tmp_path / "c",
        results=tmp_path / "r",
    )
    folder = tmp_path / "c" / "run-last"
    checked = check(folder)
    assert checked.training is not None
    assert checked.training.step == 16 and checked.training.problem == ""
    assert "training state: step 16, fits" in "\n".join(checked.lines())
    path = folder / "training_state" / "tensors.safetensors"
    tensors = load_file(path)
    first = next(name for name in tensors if name.startswith("momentum"))
    for altered, told in (
        ({name: value for name, value in tensors.items() if name != first}, first),
        ({**tensors, first: torch.zeros(1)}, "has the shape"),
        ({**tensors, first: tensors[first] + float("nan")}, "aren't finite"),
    ):
        save_file(altered, path)
        broken = check(folder).training
        assert broken is not None and told in broken.problem
    state = path.with_name("state.json")
    changed = json.loads(state.read_text().replace('"vocab_size": 260', '"vocab_size": 259'))
    del changed["sha256"], changed["version"]
    write_json(state, changed)
    broken = check(folder).training
    assert broken is not None and broken.problem == "it is of a model of another shape"


@pytest.mark.parametrize("group", GROUPS)
def test_hostile_files_end_in_one_plain_error(group: str, tmp_path: Path) -> None:
    """What the engine refuses is refused; what it takes is described, or refused here."""
    path = tmp_path / "model.gguf"
    for case in GROUPS[group]():
        path.write_bytes(case.data)
        try:
            check(path)
        except IteraError as error:
            assert str(error).startswith(str(path)) and str(error).isprintable(), case.name
        else:
            assert case.message == EITHER, case.name


@pytest.mark.parametrize("name", valid())
def test_valid_files_are_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(valid()[name])
    assert check(path).parameters > 0
