"""The model card: README.md of a repository, written from the records that exist.

No path of this machine and no command gets into it: they are in the records, which aren't uploaded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from itera_lite import __version__
from itera_lite.data.corpus import HUB_SETS
from itera_lite.engine.check import Checked
from itera_lite.records import Continuation, Evaluation, Quantization, Summary

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

# Of the named sets. "code" is the Hub's word for source code.
LANGUAGES = {"tinystories": "en", "wikitext-2": "en", "wikitext-103": "en", "python": "code"}
# The id under which a set's bits per byte stand in .eval_results. A leaderboard takes up a result
# only under the id of a task of its own, so ours can't get among the scores of another measure.
TASK_ID = "bits_per_byte"
# In every card that was written here; a pushed card that lacks it is the user's own.
MARK = (
    "<!-- Written by `itera push` from the records, and written anew by the next push: take this "
    "line out to keep your changes. -->"
)
KINDS = {
    "granitemoehybrid": "Mamba-2 layers and attention",
    "llama": "a Transformer of Llama's kind",
    "gpt2": "a GPT-2",
}


@dataclass(frozen=True)
class Facts:
    """What a card is written from.

    Attributes:
        repository: OWNER/NAME.
        summary, evaluation: None where there is no such record.
        license: an identifier of the Hub.
        languages: of the text; empty where they aren't known.
        base_models: Hub ids of the models that this one was made from.
    """

    repository: str
    checked: Checked
    summary: Summary | None
    evaluation: Evaluation | None
    license: str
    languages: tuple[str, ...]
    base_models: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.repository.partition("/")[2]

    @property
    def source(self) -> str | None:
        """The training text as it was named; it may be a path."""
        return self.summary and self.summary.dataset and self.summary.dataset.source


class CardMetadata(NamedTuple):
    """The parts of a card that the user chose, which no record holds."""

    license: str | None = None
    languages: tuple[str, ...] = ()
    base_models: tuple[str, ...] = ()


def metadata_of(card: str) -> CardMetadata:
    """The licence, languages and base models that a card names.

    The records don't hold these. All are empty for a card that can't be read.
    """
    from huggingface_hub import ModelCard

    if not card:
        return CardMetadata()
    try:
        data = ModelCard(card).data
    except Exception:  # of the YAML parser too; the user's answer is asked for instead
        return CardMetadata()

    def words(value: Any) -> tuple[str, ...]:
        return tuple(value) if isinstance(value, list) else (str(value),) if value else ()

    return CardMetadata(
        data.get("license"), words(data.get("language")), words(data.get("base_model"))
    )


def hub_set(source: str | None) -> str | None:
    """The Hub's id of a set that was named ``source``; None for one that isn't there."""
    if source in HUB_SETS:
        return HUB_SETS[str(source)].repository
    named = re.fullmatch(r"hf:([\w.-]+/[\w.-]+)([/:].*)?", source or "")
    return named[1] if named else None


def languages_of(source: str | None) -> tuple[str, ...]:
    """The languages of a named set; empty where they aren't known."""
    return (LANGUAGES[source],) if source in LANGUAGES else ()


def write_card(facts: Facts) -> str:
    """README.md: metadata as YAML, then the text."""
    sections = [_what(facts), _quality(facts), _made(facts), _use(facts), _limits(facts)]
    head = f"---\n{_metadata(facts)}\n---\n\n{MARK}\n\n# {facts.name}\n\n"
    return head + "\n".join(sections)


def eval_results(facts: Facts) -> str | None:
    """`.eval_results/itera.yaml`; None where nothing was measured on a set of the Hub."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml
    from huggingface_hub.utils import yaml_dump

    record = facts.evaluation
    dataset = hub_set(record.source) if record else None
    if record is None or dataset is None:
        return None
    entry = EvalResultEntry(
        dataset_id=dataset,
        task_id=TASK_ID,
        value=round(record.bpb, 6),
        date=record.provenance.date,
        notes=f"bits per byte on {_split(record.split)} text, lower is better; {record.policy}",
    )
    return str(yaml_dump(eval_result_entries_to_yaml([entry]), sort_keys=False))


def _metadata(facts: Facts) -> str:
    from huggingface_hub import ModelCardData

    dataset = hub_set(facts.source)
    tags = ["itera-lite", "small-language-model", "cpu"]
    tags += ["gguf"] if facts.checked.files else []
    if facts.checked.architecture == "granitemoehybrid":
        tags += ["mamba2", *(["moe"] if "experts" in facts.checked.metadata else [])]
    extra: dict[str, Any] = {}
    if facts.base_models:
        quantized = facts.summary and isinstance(facts.summary.compression, Quantization)
        extra["base_model_relation"] = "quantized" if quantized else "finetune"
    results = _results(facts)
    data = ModelCardData(
        license=facts.license,
        language=list(facts.languages) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        datasets=[dataset] if dataset else None,
        base_model=list(facts.base_models) or None,
        tags=tags,
        metrics=["perplexity"] if results else None,
        model_name=facts.name,
        eval_results=results or None,
        **extra,
    )
    if not results:
        data.model_name = None  # else it is written as a field of its own
    return str(data.to_yaml())


def _results(facts: Facts) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    found = _scores(facts)
    if found is None:
        return []
    name, source, split, bpb, ppl, _ = found
    common: dict[str, Any] = {
        "task_type": "text-generation",
        "task_name": "Text generation",
        "dataset_type": hub_set(source) or re.sub(r"[^\w.-]+", "_", name),
        "dataset_name": name,
        "dataset_split": split,
    }
    results = [
        EvalResult(
            metric_type="bits_per_byte",
            metric_name="Bits per byte",
            metric_value=round(bpb, 4),
            **common,
        )
    ]
    if ppl is not None:
        results.append(
            EvalResult(
                metric_type="perplexity",
                metric_name="Perplexity per token",
                metric_value=round(ppl, 4),
                **common,
            )
        )
    return results


def _scores(facts: Facts) -> tuple[str, str, str, float, float | None, int] | None:
    """The scores of the evaluation, or else those at the end of the training.

    Returns:
        Name of the set, its source as it was given, split, bits per byte, perplexity and bytes;
        None where nothing was measured.
    """
    record, summary = facts.evaluation, facts.summary
    if record is not None:
        name = _set_name(record.source, facts)
        return name, record.source, record.split, record.bpb, record.ppl, record.bytes
    if summary is not None and summary.valid and summary.dataset:
        valid, text = summary.valid, summary.dataset
        return text.name, text.source, "valid", valid.bpb, valid.ppl, valid.bytes
    return None


def _set_name(source: str, facts: Facts) -> str:
    """A set's short name: nothing of a path but its end."""
    if facts.source == source and facts.summary and facts.summary.dataset:
        return facts.summary.dataset.name
    return hub_set(source) or re.split(r"[/:]", source.rstrip("/"))[-1] or "text"


def _split(split: str) -> str:
    return {"valid": "validation"}.get(split, split)


def _what(facts: Facts) -> str:
    checked = facts.checked
    active = checked.active_parameters
    used = f" ({active:,} of them for a token)" if active not in (None, checked.parameters) else ""
    kind = KINDS[checked.architecture]
    lines = [
        f"A small language model that runs on a CPU: {kind}, {checked.parameters:,} "
        f"parameters{used}, a byte-level BPE vocabulary of {checked.vocab_size:,}, a context of "
        f"up to {checked.context:,} tokens. It goes on from a text. Made with Itera-Lite "
        f"{__version__}.",
        "",
        "| file | parameters | bytes |",
        "| --- | --- | --- |",
        f"| `model.safetensors` | {checked.parameters:,} | {checked.bytes:,} |",
    ]
    for name, file in checked.files.items():
        types = ", ".join(file.types)
        lines.append(f"| `{name}` ({types}) | {file.parameters:,} | {file.bytes:,} |")
    return "\n".join(lines) + "\n"


def _quality(facts: Facts) -> str:
    lines = ["## Quality", ""]
    found = _scores(facts)
    if found is None:
        return "\n".join([*lines, "Not measured.", ""])
    name, _, split, bpb, ppl, n_bytes = found
    lines += [
        f"On held-out text, the {_split(split)} split of {name} ({n_bytes:,} bytes):",
        "",
        "| measure | value |",
        "| --- | --- |",
        f"| bits per byte | {bpb:.4f} |",
    ]
    if ppl is not None:
        lines.append(f"| perplexity per token (vocabulary of its own) | {ppl:.3f} |")
    record = facts.evaluation
    if record is not None:
        lines.append(f"| next tokens guessed | {record.accuracy:.2%} |")
        lines += [
            f"| {name}, for comparison: {kind} | {baseline.bpb:.4f} bits per byte |"
            for kind, baseline in record.baselines.items()
        ]
        part = "A random choice of its documents. " if record.sampled else ""
        lines += ["", f"{part}Context: {record.policy}."]
    compression = facts.summary and facts.summary.compression
    if isinstance(compression, Quantization) and compression.bpb is not None:
        lines += [
            "",
            f"Rounding: {compression.bpb.before:.4f} bits per byte before, "
            f"{compression.bpb.after:.4f} after.",
        ]
    if facts.summary and facts.summary.continuation:
        lines += ["", *_continued(facts.summary.continuation, facts)]
    return "\n".join(lines) + "\n"


def _continued(record: Continuation, facts: Facts) -> list[str]:
    """Both texts of a model that was trained further, before and after."""
    lines = [f"Trained further from `{record.start.name}`; bits per byte before and after:", ""]
    for what, text in (("the new text", record.text), ("the earlier text", record.earlier)):
        if text is not None and text.after is not None:
            name = _set_name(text.source, facts)
            lines.append(f"- {what}, {name}: {text.before:.4f}, {text.after:.4f}")
    return lines


def _made(facts: Facts) -> str:
    lines = ["## How it was made", ""]
    summary = facts.summary
    if summary is None:
        return "\n".join([*lines, "There is no record of the training.", ""])
    for source in summary.model.made_from:
        role = "Its teacher was" if source.role == "teacher" else "It was made from"
        lines.append(f"- {role} `{source.name}`.")
    text = summary.dataset
    if text is not None:
        lines.append(
            f"- Text: {hub_set(text.source) or text.name}, {text.train_bytes:,} bytes for "
            f"training, {text.valid_bytes:,} held out (SHA-256 of the set `{text.sha256[:16]}...`)."
        )
    training = summary.training
    if training is not None:
        lines += [
            f"- {training.tokens:,} tokens ({training.epochs:.3g} passes over the text) in "
            f"{training.seconds / 60:.3g} minutes, {training.steps:,} steps of "
            f"{training.batch_size} x {training.seq_len} tokens, "
            f"{training.tokens_per_second:,.0f} tokens/s.",
            f"- Muon and AdamW, learning rates {training.lr_matrix:.3g} (matrices), "
            f"{training.lr_embedding:.3g} (embedding), {training.lr_other:.3g} (others); weight "
            f"decay {training.weight_decay:g}; {training.precision}; seed {summary.model.seed}."
            if summary.model.family != "gpt2"
            else f"- AdamW, learning rate {training.lr_other:.3g}; weight decay "
            f"{training.weight_decay:g}; {training.precision}; seed {summary.model.seed}.",
        ]
    if isinstance(summary.compression, Quantization):
        lines.append(
            f"- Rounded to {summary.compression.type} ({summary.compression.method}): "
            f"{summary.compression.bits_per_weight:.2f} bits a weight in the GGUF file."
        )
    provenance = summary.provenance
    if provenance.machine is not None:
        threads = training.threads if training else provenance.machine.threads
        used = f", {threads} of them used" if threads else ""
        lines.append(
            f"- Machine: {provenance.machine.cpu}, {provenance.machine.cores} cores{used}."
        )
    if provenance.date:
        commit = f", commit {provenance.git_commit[:9]}" if provenance.git_commit else ""
        lines.append(f"- Date: {provenance.date[:10]}{commit}.")
    return "\n".join(lines) + "\n"


def _use(facts: Facts) -> str:
    name, repository = facts.name, facts.repository
    own = facts.checked.architecture != "gpt2"
    files = [file for file in facts.checked.files if file.endswith(".gguf")]
    lines = ["## Use", "", "Itera-Lite:", "", "```sh", f"itera pull {repository}"]
    if own:
        lines.append(f'itera generate "Once upon a time" --checkpoint checkpoints/{name}')
    lines += [
        *("```", "", "transformers (no code of ours is needed):", "", "```python"),
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{repository}")',
        f'model = AutoModelForCausalLM.from_pretrained("{repository}")',
        'ids = tokenizer("<|endoftext|>Once upon a time", return_tensors="pt")',
        "print(tokenizer.decode(model.generate(**ids, max_new_tokens=60)[0]))",
        *("```", "", "llama.cpp and what builds on it:", "", "```sh"),
    ]
    if not files:
        lines.append(f"itera export checkpoints/{name} --type q8_0   # there is no GGUF file here")
    file = f"checkpoints/{name}/{files[0] if files else 'model-q8_0.gguf'}"
    lines += [
        f'llama-completion -m {file} -no-cnv -p "Once upon a time"',
        *("```", "", "A text begins with `<|endoftext|>`, which llama.cpp adds by itself.", ""),
    ]
    return "\n".join(lines)


def _limits(facts: Facts) -> str:
    text = facts.summary and facts.summary.dataset
    known = f" It knows nothing but {hub_set(text.source) or text.name}." if text else ""
    length = facts.summary and facts.summary.training and facts.summary.training.seq_len
    context = (
        f" It was trained on {length} tokens of context; what it does beyond that wasn't measured."
        if length and length < facts.checked.context
        else ""
    )
    return (
        "## Limits\n\n"
        "A base model of this size goes on from a text; it answers no questions, follows no "
        "instructions, and a chat is plain text to it, without roles; "
        f"what it writes may be false or offensive as its text may be.{known}"
        f"{context} Nothing was done to make its output safe, and it wasn't tested for bias.\n"
    )
