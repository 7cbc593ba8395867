"""Whether a checkpoint folder or a GGUF file is whole and ours to read, and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itera_lite.engine.find import find_model, load_model
from itera_lite.errors import CheckpointError, ConfigError, IteraError, ModelFileError
from itera_lite.export.reading import check_structure, inflated, is_gzip
from itera_lite.export.summary import StoredTensors
from itera_lite.files import is_folder, read_object

if TYPE_CHECKING:
    from itera_lite.data.tokenizer import Tokenizer
    from itera_lite.model import LanguageModel

GGUF_NAMES = ("*.gguf", "*.gguf.gz")  # as a folder's files of this kind are named


@dataclass(frozen=True)
class SavedTraining:
    """What a folder holds to go on with a training.

    Attributes:
        step: of the training; None where the state doesn't fit.
        problem: why it doesn't fit the model or this version; empty where it does.
    """

    step: int | None
    problem: str = ""


@dataclass(frozen=True)
class Checked:
    """A checkpoint or a file that is whole.

    Attributes:
        kind: ``checkpoint``, ``gguf`` or ``gguf.gz``.
        architecture: as transformers or llama.cpp name it.
        parameters: numbers in all tensors, the embedding once.
        active_parameters: those that a token uses; None where their number isn't known.
        context: the most tokens of a text that the model can read.
        tokenizer_sha256: of `Tokenizer`; None for another kind of tokenizer.
        types: the tensors of each stored type.
        bytes: of the file, or of the folder's files of weights.
        metadata: further things that it holds, for people.
        training: the saved training, where there is one.
        files: the GGUF files in a folder, by name.
    """

    path: str
    kind: str
    architecture: str
    parameters: int
    vocab_size: int
    context: int
    tokenizer_sha256: str | None
    types: dict[str, StoredTensors]
    bytes: int
    active_parameters: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    training: SavedTraining | None = None
    files: dict[str, Checked] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The facts, for a terminal."""
        active = "" if self.active_parameters is None else f" ({self.active_parameters:,} active)"
        lines = [
            f"{self.path}: whole ({self.kind}, {self.architecture})",
            f"  {self.parameters:,} parameters{active}, vocabulary {self.vocab_size:,}, "
            f"context {self.context:,} tokens, {self.bytes:,} bytes",
            f"  tokenizer {self.tokenizer_sha256 or 'of another kind'}",
        ]
        for name, stored in self.types.items():
            lines.append(
                f"  {name:<5}{stored.tensors:>4} tensors {stored.weights:>12,} weights "
                f"{stored.bytes:>12,} bytes, all finite"
            )
        lines += [f"  {key}: {value}" for key, value in self.metadata.items()]
        if self.training is not None:
            lines.append(
                f"  training state: step {self.training.step}, fits"
                if not self.training.problem
                else f"  training state: can't be gone on with: {self.training.problem}"
            )
        for file in self.files.values():
            lines += file.lines()
        return lines


def check(path: Path) -> Checked:
    """Read everything in a checkpoint folder, or in a GGUF file, and describe it.

    Every number of the weights is read: shapes are compared with the config, and NaN and infinity
    are found. The engine reads a GGUF file as it does to run it.

    Raises:
        CheckpointError, ConfigError: a folder that isn't whole, or of another kind; the
            message has the first reason and what to do.
        ModelFileError: a file that the engine refuses, or whose weights aren't all finite.
    """
    path = find_model(path)
    return _check_folder(path) if is_folder(path) else _check_file(path)


def _check_folder(folder: Path) -> Checked:
    from itera_lite.checkpoint.folder import load_checkpoint
    from itera_lite.checkpoint.weights import stored_types, weight_files
    from itera_lite.model.cost import cost
    from itera_lite.sampling import read_generation_config

    inside = sorted(path for name in GGUF_NAMES for path in folder.glob(name))
    if inside and not (folder / "config.json").exists():
        raise CheckpointError(
            f"'{folder}' is no checkpoint, but holds GGUF files: name one, '{inside[0]}'"
        )
    _refuse_other_kinds(folder)
    model, tokenizer = load_checkpoint(folder)
    counts = cost(model.config)
    sampling = read_generation_config(folder)
    config = read_object(folder / "config.json", CheckpointError)
    files = {}
    for path in inside:
        # The engine doesn't run a GPT-2, so the file of one is read without it
        files[path.name] = _check_file(path, runs=model.config.family != "gpt2")
        if files[path.name].tokenizer_sha256 != tokenizer.sha256:
            raise CheckpointError(
                f"'{path}' has another tokenizer than the checkpoint that it lies in: it was made "
                "from an older one. Export it again, or move it elsewhere"
            )
    metadata: dict[str, Any] = {"layers": model.config.pattern, "width": model.config.d_model}
    if tokenizer.unit is not None:
        metadata["trained on"] = f"text cut by {tokenizer.unit}"
    if model.config.n_experts:
        metadata["experts"] = f"{model.config.n_experts}, {model.config.top_k} a token"
    metadata["sampling"] = f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}"
    if "made_with" in config:
        metadata["made with"] = config["made_with"]
    return Checked(
        path=str(folder),
        kind="checkpoint",
        architecture=str(config["model_type"]),
        parameters=counts.params_total,
        active_parameters=counts.params_active,
        vocab_size=model.config.vocab_size,
        context=model.config.max_seq_len,
        tokenizer_sha256=tokenizer.sha256,
        types={name: StoredTensors(*sums) for name, sums in stored_types(folder).items()},
        bytes=sum(file.stat().st_size for file in weight_files(folder)),
        metadata=metadata,
        training=_saved_training(folder, model, tokenizer),
        files=files,
    )


def _refuse_other_kinds(folder: Path) -> None:
    """Raises `ConfigError` for a model of transformers that isn't of our three families."""
    from itera_lite.checkpoint.hf_config import ARCHITECTURES
    from itera_lite.checkpoint.weights import require_checkpoint

    require_checkpoint(folder)
    config = read_object(folder / "config.json", CheckpointError)
    kind = config.get("model_type")
    if isinstance(kind, str) and kind.isprintable() and kind not in ARCHITECTURES:
        raise ConfigError(
            f"'{folder}' is a model of the family '{kind[:60]}': Itera-Lite reads "
            f"{', '.join(ARCHITECTURES)}. transformers loads it (AutoModelForCausalLM."
            "from_pretrained), and llama.cpp's convert_hf_to_gguf.py makes a GGUF file of it, if "
            "they know the family"
        )


def _saved_training(
    folder: Path, model: LanguageModel, tokenizer: Tokenizer
) -> SavedTraining | None:
    """What a training could go on with; None where there is nothing.

    Raises:
        CheckpointError: the files are damaged.
    """
    from itera_lite.checkpoint.folder import (
        SHARDS,
        STATE,
        has_training_state,
        load_training_state,
    )
    from itera_lite.config import TrainConfig
    from itera_lite.train.log import TrainingState
    from itera_lite.train.optim import Optimizer

    if not has_training_state(folder) and not (folder / "training_state").exists():
        return None
    saved, tensors = load_training_state(folder)
    identity = saved["identity"]
    if identity.get("model") != model.config.to_dict():
        return SavedTraining(None, "it is of a model of another shape")
    if identity.get("tokenizer_sha256") != tokenizer.sha256:
        return SavedTraining(None, "it is of a model with another tokenizer")
    try:
        state = TrainingState.from_dict(saved["state"])
        optimizer = Optimizer(model, TrainConfig(**identity["train"]))
        own = {name for name in tensors if name != "rng" and not name.startswith("load.")}
        if SHARDS in saved:
            optimizer.load_shards(folder / STATE, tensors["adam.step"])
            tensors |= optimizer.by_parameter()
        else:
            optimizer.load_tensors({name: tensors[name] for name in own})
    except (KeyError, TypeError, ValueError, RuntimeError, IteraError) as error:
        return SavedTraining(None, f"another version wrote it, or it is damaged ({error})")
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            return SavedTraining(None, f"'{name}' holds numbers that aren't finite")
    return SavedTraining(state.step)


def _check_file(path: Path, runs: bool = True) -> Checked:
    """A GGUF file.

    Args:
        runs: whether the engine runs such a file; then it reads it first, as untrusted.
    """
    defaults: Mapping[str, float] = {}
    if runs:
        defaults = load_model(path).sampling_defaults
    else:
        with inflated(path) as plain:
            check_structure(plain, path)
    try:
        return _described(path, defaults)
    except (ValueError, TypeError, LookupError, ArithmeticError, NotImplementedError) as error:
        raise ModelFileError(
            f"{path}: its keys or tensors aren't those of a model ({error}). Export it again"
        ) from None


def _described(path: Path, defaults: Mapping[str, float]) -> Checked:
    """Describe a GGUF file whose structure was checked before.

    Args:
        defaults: of sampling, as the engine reads them.

    Raises:
        ModelFileError: a number isn't finite, or the tokenizer isn't the one named.
    """
    import gguf
    import numpy as np
    from gguf.quants import dequantize

    types: dict[str, StoredTensors] = {}
    with inflated(path) as plain:
        reader = gguf.GGUFReader(plain)
        for tensor in reader.tensors:
            values = dequantize(tensor.data, tensor.tensor_type)
            if not np.isfinite(values).all():
                raise ModelFileError(
                    f"{path}: the tensor '{tensor.name}' holds numbers that aren't finite: the "
                    "file is damaged, or the training failed. Export it again, from an older "
                    "checkpoint"
                )
            kind = tensor.tensor_type.name
            stored = types.get(kind, StoredTensors())
            types[kind] = stored.plus(int(tensor.n_elements), int(tensor.n_bytes))
        keys = {key: _value(reader, key) for key in ("general.name", "general.description")}
        unit = _value(reader, "itera.unit")
        tokenizer = _tokenizer_sha256(path, reader)
        architecture = str(_value(reader, "general.architecture"))
        context = int(_value(reader, f"{architecture}.context_length") or 0)
        vocabulary = len(_value(reader, "tokenizer.ggml.tokens") or ())
    sampling = ", ".join(f"{name} {value:g}" for name, value in defaults.items())
    metadata = {key.partition(".")[2]: value for key, value in keys.items() if value}
    if unit:
        metadata["trained on"] = f"text cut by {unit}"
    return Checked(
        path=str(path),
        kind="gguf.gz" if is_gzip(path) else "gguf",
        architecture=architecture,
        parameters=sum(stored.weights for stored in types.values()),
        vocab_size=vocabulary,
        context=context,
        tokenizer_sha256=tokenizer,
        types=types,
        bytes=path.stat().st_size,
        metadata=metadata | ({"sampling": sampling} if sampling else {}),
    )


def _value(reader: Any, key: str) -> Any:
    found = reader.get_field(key)
    return None if found is None else found.contents()


def _tokenizer_sha256(path: Path, reader: Any) -> str | None:
    """The hash of the tokenizer in the file; None where it isn't of our kind.

    Raises:
        ModelFileError: the file names another hash than its tokens have.
    """
    from itera_lite.data.tokenizer import EOT, vocabulary_sha256

    tokens, merges = (_value(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "merges"))
    if _value(reader, "tokenizer.ggml.model") != "gpt2" or not tokens or EOT not in tokens:
        return None
    vocab = {token: number for number, token in enumerate(tokens)}
    found = vocabulary_sha256(vocab, [merge.split(" ") for merge in merges or []])
    named = _value(reader, "itera.tokenizer.sha256")
    if named not in (None, found):
        raise ModelFileError(
            f"{path}: its tokens have the hash {found[:12]}..., and 'itera.tokenizer.sha256' is "
            f"'{str(named)[:12]}...': the tokenizer in it was changed. Export it again"
        )
    return found
