"""The commands that are killed, small enough to take a second, and what is compared at their ends.

Everything is made deterministic: budgets in tokens, one worker, float32, no measurement of the
machine. What a clock decides is left out of the comparison.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from itera_lite import cli, config
from itera_lite.checkpoint.folder import load_checkpoint, load_training_state
from itera_lite.checkpoint.weights import verified
from itera_lite.commands import ladder as ladder_verb
from itera_lite.compress.start import TextOptions
from itera_lite.data import building, spool
from itera_lite.data.prepare import open_dataset
from itera_lite.engine import Model, score_formats, score_resume
from itera_lite.errors import CheckpointError, IteraError
from itera_lite.files import cache_folder
from itera_lite.machine import load
from itera_lite.ops.library import load as compile_operations
from itera_lite.records import read_any
from itera_lite.studies import ladder_stages
from itera_lite.studies.ladder_stages import LadderPlan
from itera_lite.train import precision
from itera_lite.train.log import COLUMNS
from itera_lite.train.recipe import Budget
from tests.faults.kills import Verb

TIMED_COLUMNS = {"seconds", "tokens_per_second", "mfu"}
# Of records and states: what a clock decides, and where and when a command ran
TIMED = {
    *("provenance", "seconds", "minutes_wall", "tokens_per_second", "mfu", "peak_gflops", "wall"),
    *("load_seconds", "load_others", "precision_reason", "teacher_seconds", "cache"),
}
UNCOMPARED = {"spent.json", "verified.json", ".lock"}  # times; what saves work; stays empty
# Of the cache: compiled operations; files that only save reading a text once more, of which a
# killed run may leave some unwritten; and what a killed preparation left, which goes after a day
SHARED = re.compile(r"kernels|index|\.building-.*")
SHARES = {  # of 100 kills
    "train": 22,
    "train --overwrite": 6,
    "data": 8,
    "data (large)": 6,
    "export": 8,
    "export gguf.gz": 4,
    "score": 8,
    "score (folder)": 4,
    "quantize q8_0": 4,
    "quantize q4_0 (gptq)": 4,
    "quantize q4_0 (qat)": 6,
    "vocab": 5,
    "experts": 4,
    "distill": 5,
    "ladder": 6,
}
GPT2 = {"pattern": "aa", "d_model": 64, "d_ff": 128, "n_kv_heads": 2, "max_seq_len": 256}
ITERA = {"pattern": "ma", "d_model": 64, "n_experts": 4, "d_expert": 32, "d_state": 16}
LLAMA = {"pattern": "aa", "d_model": 64, "d_ff": 96, "n_kv_heads": 2}


class Measured(BaseException):
    """Raised where the ladder would measure, which is no part of what is killed."""


@dataclass(frozen=True)
class Given:
    """What the commands are given: paths that no command changes.

    Attributes:
        text: a folder of documents.
        model: a checkpoint with random weights.
        file: the same as GGUF.
        lines: a file to score.
        corpus: a folder of files to score.
    """

    text: Path
    model: Path
    file: Path
    lines: Path
    corpus: Path

    @classmethod
    def make(cls, folder: Path) -> Given:
        text = folder / "text"
        text.mkdir(parents=True)
        draw = random.Random(0)
        people = ("the cat", "a dog", "my friend", "the old man", "a small bird", "the queen")
        acts = ("sees", "likes", "follows", "asks", "paints", "finds")
        for i in range(120):
            lines = [
                f"{draw.choice(people)} {draw.choice(acts)} {draw.choice(people)}."
                for _ in range(draw.randint(4, 16))
            ]
            (text / f"{i}.txt").write_text("\n".join(lines))
        objects = [
            json.dumps({"id": i, "text": (text / f"{i % 120}.txt").read_text()}) + "\n"
            for i in range(150)
        ]
        lines = folder / "lines.jsonl"
        lines.write_text("".join(objects))
        corpus = folder / "corpus"
        (corpus / "more").mkdir(parents=True)
        for name in ("a.jsonl", "b.jsonl", "more/c.jsonl"):
            (corpus / name).write_text("".join(draw.sample(objects, 50)))
        with gzip.open(corpus / "d.jsonl.gz", "wt") as file:
            file.writelines(objects[:50])
        return cls(text, folder / "model", folder / "model.gguf", lines, corpus)

    def save_model(self) -> None:
        """Write the checkpoint and the file. It computes, so it belongs into a child."""
        from itera_lite.checkpoint.folder import save_checkpoint
        from itera_lite.config import preset
        from itera_lite.data.prepare import prepare
        from itera_lite.export.gguf import export_gguf
        from tests.export.models import random_model

        tokenizer = prepare(str(self.text), vocab_size=310, quiet=True).tokenizer
        shape = preset("itera", "tiny", tokenizer.vocab_size)
        save_checkpoint(self.model, random_model(shape), tokenizer)
        export_gguf(self.model, "f32", self.file)


def prepare_process() -> None:
    """Make this process one whose children are quick and always do the same."""
    patch = pytest.MonkeyPatch()  # never undone: the process is for this alone
    for size in ("femto", "pico", "tiny", "small"):
        itera = {**ITERA, "d_model": 96} if size == "small" else ITERA
        patch.setitem(config.PRESETS, size, {"itera": itera, "transformer": LLAMA})
    for name, shape in (
        ("reference", GPT2),
        ("reference_medium", {**GPT2, "d_ff": 96}),
        ("reference_small", {**GPT2, "pattern": "a"}),
    ):
        patch.setitem(config.PRESETS, name, {"gpt2": shape})
    patch.setattr(precision, "measured_peak", lambda dtype, **_: 1e9)  # float32 is chosen
    patch.setattr(load, "START_SECONDS", 0.0)
    patch.setattr(load, "read_counters", lambda: load.Counters(0.0, 0.0, 0.0))
    # A line of output, and a record of how far the input was read, every few lines
    patch.setattr(score_formats, "BATCH_LINES", 20)
    patch.setattr(score_resume, "SAVE_SECONDS", 0.0)
    patch.setattr(ladder_stages, "REFERENCE_VOCABULARY", 320)
    patch.setattr(LadderPlan, "budget", lambda *_: Budget("tokens", 2000.0))
    patch.setattr(
        LadderPlan,
        "text",
        lambda plan, stage, _: TextOptions(
            plan.data, None, "2000", plan.seed, plan.files(stage).resumable
        ),
    )
    found = ladder_stages.valid_bpb

    def valid_bpb(plan: LadderPlan, stage: str) -> float | None:
        """A teacher that is better than the student alone, so that every stage is made."""
        bpb = found(plan, stage)
        return bpb if bpb is None or stage != "alone" else bpb + 9

    patch.setattr(ladder_stages, "valid_bpb", valid_bpb)

    def measured(*_: object) -> None:
        raise Measured

    patch.setattr(ladder_verb, "measure_ladder", measured)
    compile_operations()
    OPERATIONS.append(cache_folder().resolve() / "kernels")


def verbs(given: Given, older: Path) -> dict[str, Verb]:
    """All the commands, by their names in the table.

    Args:
        older: a folder with a finished run, see `older_run`.
    """
    quiet = ("--workers", "1", "--quiet")
    small = ("--data", str(given.text), *quiet, "--name", "small")
    quantize = ("compress", "quantize", str(given.model), *small)
    train = _training(given, "--tokens", "9K", "--seed", "0")
    distill = ("compress", "distill", "--teacher", str(given.model), "--student", "pico", *small)
    ladder = ("ladder", str(given.text), "--minutes", "0.01", "--size", "300", *quiet)
    commands: dict[str, tuple[str, ...]] = {
        "train": train,
        "data": ("data", str(given.text), "--vocab-size", "300"),
        "export": ("export", str(given.model), "--output", "model.gguf"),
        "export gguf.gz": ("export", str(given.model), "--output", "model.gguf.gz"),
        "data (large)": ("data", str(given.text), "--vocab-size", "300", "--workers", "1"),
        "score": (
            *("score", str(given.lines), "--checkpoint", str(given.file)),
            *("--output", "scored.jsonl"),
        ),
        "score (folder)": (
            *("score", str(given.corpus), "--checkpoint", str(given.file), "--threads", "2"),
            *("--output", "scored", "--keep", "60%"),
        ),
        "quantize q8_0": (*quantize, "--type", "q8_0"),
        "quantize q4_0 (gptq)": (*quantize, "--type", "q4_0", "--minutes", "0"),
        "quantize q4_0 (qat)": (*quantize, "--type", "q4_0", "--tokens", "4K"),
        "vocab": (
            *("compress", "vocab", str(given.model), *small, "--size", "280"),
            *("--tokens", "4K"),
        ),
        "experts": (
            *("compress", "experts", str(given.model), *small, "--keep", "3"),
            *("--tokens", "4K"),
        ),
        "distill": (*distill, "--tokens", "3K", "--top-k", "8", "--precision", "fp32"),
        "ladder": (*ladder, "--precision", "fp32", "--checkpoints", "c", "--results", "r"),
    }
    found = {}
    for name, command in commands.items():
        same = name.split()[0] in ("data", "export", "ladder") or name == "score (folder)"
        again = command if same else (*command, "--resume")
        action = run_large if name == "data (large)" else run
        found[name] = Verb(name, action, command, snapshot, problems, again)
    overwriting = replace(
        found["train"], name="train --overwrite", arguments=(*train, "--overwrite"), before=older
    )
    return {**found, overwriting.name: overwriting}


def _training(given: Given, *more: str) -> tuple[str, ...]:
    return (
        *("train", str(given.text), "--model", "itera", "--name", "run", "--vocab-size", "300"),
        *("--batch-size", "4", "--seq-len", "32", "--workers", "1", "--quiet"),
        *("--precision", "fp32", "--evaluations", "4", "--patience", "0", *more),
    )


def older_run(given: Given) -> tuple[str, ...]:
    """The command whose result another one replaces."""
    return _training(given, "--tokens", "3K", "--seed", "5")


def run(arguments: list[str]) -> int:
    """Run a command; its cache has the operations that are compiled already."""
    link = cache_folder() / "kernels"
    if not link.is_symlink():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(OPERATIONS[0])
    try:
        return cli.main(arguments)
    except Measured:
        return 0


def run_large(arguments: list[str]) -> int:
    """Prepare a text as if it were large: in many parts, with a record after every step."""
    patch = pytest.MonkeyPatch()  # never undone: it is a child, which ends
    patch.setattr(building, "PART_BYTES", 2000)
    patch.setattr(building, "KEPT_BYTES", 1)
    patch.setattr(building, "SAVE_SECONDS", 0.0)
    patch.setattr(spool, "CHUNK_BYTES", 1000)
    return run(arguments)


OPERATIONS: list[Path] = []  # the folder of the compiled operations, which all runs share


def snapshot(work: Path) -> dict[str, str]:
    """What must be the same in each file of a folder, as a hash."""
    return {
        str(path.relative_to(work)): hashlib.sha256(_content(path)).hexdigest()
        for path in _files(work)
    }


def _files(work: Path) -> Iterator[Path]:
    for path in sorted(work.rglob("*")):
        parts = path.relative_to(work).parts
        shared = any(SHARED.fullmatch(part) for part in parts)
        if path.is_file() and not shared and path.name not in UNCOMPARED:
            yield path


def _content(path: Path) -> bytes:
    """A file's content without what a clock decides."""
    if path.suffix == ".json" or path.name.endswith((".settings", ".resume")):
        value = json.loads(path.read_text())
        if path.name == "state.json":
            del value["sha256"]  # of what a clock decides too
        return json.dumps(_untimed(value), sort_keys=True).encode()
    if path.suffix == ".csv":
        rows = list(csv.DictReader(path.read_text().splitlines()))
        return json.dumps(
            [{k: v for k, v in row.items() if k not in TIMED_COLUMNS} for row in rows]
        ).encode()
    return path.read_bytes()


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(each) for key, each in value.items() if key not in TIMED}
    if isinstance(value, list):
        return [_untimed(each) for each in value]
    return value


def problems(work: Path) -> list[str]:
    """What looks whole in a folder and isn't.

    A checkpoint has a config.json. One that is refused with a reason isn't taken for whole; it is
    found here only where its reader fails in another way, or accepts what its checksums don't.
    """
    found = []
    for path in _files(work):
        if any(part.startswith(".") for part in path.relative_to(work).parts):
            continue
        try:
            _look(path)
        except Exception as error:
            found.append(f"'{path.relative_to(work)}': {type(error).__name__}: {error}")
    return found


def _look(path: Path) -> None:
    """Read a file, or what it belongs to, as the command does that uses it."""
    if path.name == "config.json":
        try:
            load_checkpoint(path.parent)
        except CheckpointError as error:
            if "isn't a whole checkpoint" not in str(error):  # a removal that was cut off
                raise
    elif path.name == "tensors.safetensors":
        load_training_state(path.parent.parent)
    elif path.suffix == ".safetensors":
        verified(path)
    elif path.name == "manifest.json" and (path.parent / "train.bin").exists():
        if open_dataset(path.parent) is None:
            raise IteraError("the prepared set isn't whole")
    elif path.name.endswith(("_summary.json", "ladder.json")):
        read_any(path)
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.name.endswith((".gguf", ".gguf.gz")):
        Model.load(path)
    elif path.suffix == ".csv":
        text = path.read_text()
        lines = text.splitlines()
        if not text.endswith("\n") or any(line.count(",") != len(COLUMNS) - 1 for line in lines):
            raise IteraError("the log is cut off")
    elif path.name.endswith((".jsonl", ".jsonl.gz")):
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        *lines, rest = data.decode().split("\n")
        for line in lines:
            json.loads(line)
        if rest and path.name != "scored.jsonl":  # which is written line by line
            raise IteraError("the last line is cut off")
