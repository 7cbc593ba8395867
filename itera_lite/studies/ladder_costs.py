"""Measures the rungs of the ladder: quality on held-out text, and what a text costs, in turns."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from itera_lite.bench.processes import TEXT_BYTES, DeployedModel
from itera_lite.checkpoint.folder import load_checkpoint
from itera_lite.config import TrainConfig
from itera_lite.data.corpus import load_documents
from itera_lite.data.prepare import prepare
from itera_lite.data.tokenizer import Tokenizer
from itera_lite.errors import IteraError
from itera_lite.evaluate.bits import score_documents
from itera_lite.evaluate.documents import sample_documents
from itera_lite.files import write_json
from itera_lite.machine.energy import DEFAULT_WATTS
from itera_lite.machine.provenance import provenance
from itera_lite.model.cost import cost
from itera_lite.stats.comparison import is_number
from itera_lite.stats.samples import stat
from itera_lite.studies.ladder_stages import (
    QUANTIZED,
    REFERENCES,
    STAGES,
    Plan,
    chosen_reference,
    minutes_of,
)

WINDOW = TrainConfig().seq_len


@dataclass
class Rung:
    """A step of the ladder: a name, the stage that made it, and what is shipped."""

    name: str
    stage: str
    artifact: DeployedModel
    size: int
    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, written: dict[str, float], peak: float) -> None:
        """One more round of writing."""
        kilobytes = written["bytes"] / 1e3
        found = {
            "cpu_seconds_per_kb": written["cpu_seconds"] / kilobytes,
            "ms_per_byte": 1e3 * written["seconds"] / written["bytes"],
            "peak_rss_bytes": peak,
        }
        joules = written.get("joules", DEFAULT_WATTS * written["cpu_seconds"])
        found["joules_per_kb"] = joules / kilobytes
        for key, value in found.items():
            self.samples.setdefault(key, []).append(value)


def held_out(data: str, most: int) -> tuple[str, list[bytes]]:
    """The text that judges: the set's test split where it has one, else its validation split."""
    splits = load_documents(data).splits
    split = "test" if "test" in splits else "valid"
    return split, sample_documents(splits[split], most)


def measure_rungs(plans: Sequence[Plan], repeats: int, most_bytes: int) -> dict[str, Any]:
    """Score every rung with every seed, then let the first seed's artifacts write, in turns.

    Returns:
        ``rungs`` (see `itera_lite.report.ladder`) and what they were measured on.
    """
    split, documents = held_out(plans[0].data, most_bytes)
    scores = {name: _scores(plans, name, documents) for name in _stage_names(plans[0])}
    rungs = _rungs(plans[0], scores)
    for repeat in range(repeats):
        for rung in rungs:
            written = rung.artifact.write_texts(seed=1000 * repeat)
            rung.add(written, rung.artifact.peak_bytes(written))
        if not plans[0].compute.quiet:
            print(f"measured {repeat + 1} of {repeats} times")
    return {
        "held_out": {
            "split": split,
            "documents": len(documents),
            "bytes": sum(map(len, documents)),
            "window": WINDOW,
        },
        "energy": "rapl" if _has_meter() else f"estimated at {DEFAULT_WATTS:g} W a core",
        "threads": 1,
        "text_bytes": TEXT_BYTES,
        "references": _references(plans[0]),
        "rungs": [_record(plans, rung, scores[rung.stage]) for rung in rungs],
    }


def _stage_names(plan: Plan) -> list[str]:
    return [chosen_reference(plan), *(stage.name for stage in STAGES if stage.name != "teacher")]


def _references(plan: Plan) -> list[dict[str, Any]]:
    """Every reference that was tried, on the validation text, which chooses among them."""
    found = []
    for stage in REFERENCES:
        summary = plan.summary(stage.name)
        if summary is not None:
            found.append(
                {
                    "stage": stage.name,
                    "params": summary["params"]["total"],
                    "valid_bpb": summary["valid"]["bpb"],
                    "epochs": summary["train"]["epochs"],
                    "train_minutes": minutes_of(summary),
                    "chosen": stage.name == chosen_reference(plan),
                }
            )
    return found


def _scores(plans: Sequence[Plan], name: str, documents: list[bytes]) -> list[dict[str, float]]:
    """Bits per byte and bytes per token of a stage's artifact, for each seed.

    What was scored before is kept in NAME_heldout.json, and holds for these weights and this
    text alone.
    """
    text = hashlib.sha256(b"\0".join(documents)).hexdigest()
    found = []
    for plan in plans:
        folder = plan.folder(name)
        file = model_file(folder) if name in QUANTIZED else folder / "model.safetensors"
        key = {"text_sha256": text, "weights_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        kept = plan.results / f"{folder.name}_heldout.json"
        record = _kept(kept)
        if not key.items() <= record.items():
            if not plan.compute.quiet:
                print(f"scoring {folder}")
            nats, tokens, size = _score(folder, file, documents)
            bits = {"bpb": nats / math.log(2) / size, "bytes_per_token": size / tokens}
            record = {**bits, "bytes": size, "window": WINDOW, **key}
            record["provenance"] = provenance(seed=plan.seed)
            write_json(kept, record)
        found.append({part: float(record[part]) for part in ("bpb", "bytes_per_token")})
    return found


def _kept(path: Path) -> dict[str, Any]:
    """What a file of scores holds; nothing where it isn't there or is damaged."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    parts = ("bpb", "bytes_per_token")
    good = isinstance(record, dict) and all(is_number(record.get(part)) for part in parts)
    return record if good else {}


def _score(folder: Path, file: Path, documents: list[bytes]) -> tuple[float, int, int]:
    """Nats, tokens and bytes. Of a quantised model it is the file that counts, in the engine."""
    if file.suffix == ".gguf":
        from itera_lite.engine import Model

        parts = Model.load(file).score(documents, window=WINDOW)
        return (
            sum(part.nats for part in parts),
            sum(part.tokens for part in parts),
            sum(part.bytes for part in parts),
        )
    model, tokenizer = load_checkpoint(folder)
    window = min(WINDOW, model.config.max_seq_len)
    score = score_documents(model, tokenizer, documents, seq_len=window)
    return score.nats, score.tokens, score.bytes


def model_file(folder: Path) -> Path:
    """The GGUF file that a quantised checkpoint's folder holds."""
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        raise IteraError(
            f"'{folder}' holds {len(files)} GGUF files: expected the one that "
            "`itera compress quantize` wrote. Delete the folder, and run again with --overwrite"
        )
    return files[0]


def _rungs(plan: Plan, scores: dict[str, list[dict[str, float]]]) -> list[Rung]:
    """Every step, the file of the last once more in the engine."""
    titles = {s.name: s.title for s in STAGES}
    rungs = []
    for name in _stage_names(plan):
        tokens = round(TEXT_BYTES / scores[name][0]["bytes_per_token"])
        folder = plan.folder(name)
        shipped = DeployedModel("transformers", folder, tokens)
        # The quantised file is what is shipped; transformers decodes the weights it stands for.
        size = shipped.size
        if name in QUANTIZED:
            size = model_file(folder).stat().st_size
        rungs.append(Rung(titles.get(name, REFERENCES[0].title), name, shipped, size))
    last = rungs[-1]
    file = model_file(last.artifact.path)
    engine = DeployedModel("engine", file, last.artifact.tokens)
    return [*rungs, Rung("the native engine", last.stage, engine, last.size)]


def _record(plans: Sequence[Plan], rung: Rung, scores: list[dict[str, float]]) -> dict[str, Any]:
    model, tokenizer = load_checkpoint(plans[0].folder(rung.stage))
    counts = cost(model.config, WINDOW)
    bits = [score["bpb"] for score in scores]
    bytes_per_token = scores[0]["bytes_per_token"]
    return {
        "name": rung.name,
        "stage": rung.stage,
        "runtime": rung.artifact.runtime,
        "bpb": stat(bits) if len(bits) > 1 else bits[0],
        "params": counts.params_total,
        "d_model": model.config.d_model,
        "vocab_size": tokenizer.vocab_size,
        "tokens_in_use": _tokens_in_use(plans[0].data, tokenizer),
        "bytes_per_token": bytes_per_token,
        "flops_per_byte": counts.flops_forward / bytes_per_token,
        "bytes_on_disk": rung.size,
        **{key: stat(values) for key, values in rung.samples.items()},
        "outside_teacher": _outside_teacher(plans[0], rung.stage),
        "train_minutes": sum(minutes_of(s) for s in _history(plans[0], rung.stage)),
        "own_train_minutes": minutes_of(plans[0].summary(rung.stage) or {}),
    }


def _tokens_in_use(data: str, tokenizer: Tokenizer) -> int:
    """How many of the tokenizer's tokens occur in the training text."""
    return len(np.unique(prepare(data, tokenizer=tokenizer, quiet=True).tokens("train")))


def _outside_teacher(plan: Plan, name: str) -> str | None:
    """A teacher that was brought along: its training is in nobody's minutes."""
    taught = any("distillation" in summary for summary in _history(plan, name))
    return plan.teacher.name if taught and plan.teacher is not None else None


def _history(plan: Plan, name: str) -> list[dict[str, Any]]:
    """The summaries of everything that a stage was made from, and its own."""
    stage = next((s for s in STAGES if s.name == name), None)
    before = [h for parent in (stage.after if stage else ()) for h in _history(plan, parent)]
    own = plan.summary(name)
    return [*before, *([own] if own else [])]


def _has_meter() -> bool:
    from itera_lite.machine.energy import find_meter

    return find_meter() is not None
