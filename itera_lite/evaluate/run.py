"""The verb `eval`: how good a checkpoint is on held-out text, beside the floors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from itera_lite.errors import UsageError
from itera_lite.files import cache_folder, write_json

DEFAULT_SEQ_LEN = 256


def evaluate(
    checkpoint: Path = Path("checkpoints/itera_lite_tiny"),
    *,
    data: str | None = None,
    split: str = "valid",
    seq_len: int | None = None,
    max_bytes: int | None = None,
    baselines: bool = True,
    threads: int | None = None,
    results: Path = Path("results"),
) -> dict[str, Any]:
    """Measure the quality of a checkpoint.

    Bits per byte, loss, perplexity and next-token accuracy on held-out text, beside what
    xz, bzip2 and a Kneser-Ney byte model reach on the same text. Writes NAME_eval.json.

    Args:
        checkpoint: Folder of the model; its name is the NAME of the result file.
        data: Set or path to evaluate on; by default the one that it was trained on.
        split: Part of the set: valid, or test where the set has one.
        seq_len: Longest window in tokens; by default the one of the training.
        max_bytes: Evaluate a random choice of documents (fixed seed) of at most this size.
        baselines: Also measure xz, bzip2 and the Kneser-Ney model.
        threads: Processor threads; by default PyTorch's own choice.
        results: Folder of the result files.
    """
    import torch

    from itera_lite import kernels
    from itera_lite.bench.provenance import provenance
    from itera_lite.data.corpus import load_documents
    from itera_lite.evaluate.baselines import baselines as measure_baselines
    from itera_lite.evaluate.baselines import sample_documents
    from itera_lite.evaluate.bits import score_documents
    from itera_lite.evaluate.score import count_words, perplexity
    from itera_lite.train.checkpoint import load_checkpoint

    for option, value in (("seq_len", seq_len), ("max_bytes", max_bytes), ("threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"{option}={value}: expected 1 or more")
    checkpoint, name = Path(checkpoint), Path(checkpoint).resolve().name
    summary = _summary(Path(results), name)
    trained_on = summary.get("dataset", {})
    spec = data or trained_on.get("spec") or trained_on.get("name")
    if not spec:
        raise UsageError(
            f"no data given, and {Path(results) / f'{name}_summary.json'} doesn't say what "
            f"'{name}' was trained on: name a set or a path with --data"
        )
    model, tokenizer = load_checkpoint(checkpoint)
    problem = kernels.enable()
    corpus = load_documents(spec)
    if split not in corpus.splits:
        raise UsageError(f"split={split!r}: '{spec}' has {', '.join(map(repr, corpus.splits))}")
    documents = corpus.splits[split]
    if max_bytes is not None:
        documents = sample_documents(documents, max_bytes)
    window = seq_len or summary.get("train", {}).get("seq_len") or DEFAULT_SEQ_LEN
    window = min(window, model.config.max_seq_len)

    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads or threads_before)
    try:
        total = sum(map(len, documents))
        with tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=None) as bar:
            score = score_documents(
                model, tokenizer, documents, seq_len=window, progress=bar.update
            )
        record_of_machine = provenance()
    finally:
        torch.set_num_threads(threads_before)
    words = count_words(documents) if _is_wikitext(spec) else None
    record: dict[str, Any] = {
        "name": name,
        "data": spec,
        "split": split,
        "bpb": score.bpb,
        "loss": score.loss,
        "ppl": score.ppl,
        "word_ppl": None if words is None else perplexity(score.nats, words),
        "accuracy": score.accuracy,
        "tokens": score.tokens,
        "bytes": score.bytes,
        "words": words,
        "documents": sum(map(bool, documents)),
        "sampled": len(documents) < len(corpus.splits[split]),
        "seq_len": window,
        "policy": policy(window),
        "by_position": [[end, nats / n] for end, (nats, n) in score.by_position.items()],
        "baselines": {},
        "fused_kernels": problem is None,
        "provenance": record_of_machine,
    }
    if baselines:
        record["baselines"] = measure_baselines(
            corpus.splits["train"], documents, cache=cache_folder()
        )
    path = write_json(Path(results) / f"{name}_eval.json", record)
    _print(record, path)
    return record


def policy(window: int) -> str:
    """The context policy in words; see docs/method.md."""
    return (
        f"each document starts fresh after <|endoftext|>; windows of {window} tokens, a longer "
        f"document in overlapping ones with at least {window // 2} tokens of context; every token "
        "is scored once, the one that ends a document included, which counts no byte"
    )


def _is_wikitext(spec: str) -> bool:
    return spec.rpartition("/")[2].lower().startswith("wikitext")


def _summary(results: Path, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads((results / f"{name}_summary.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _print(record: dict[str, Any], path: Path) -> None:
    part = ", a random choice of its documents" if record["sampled"] else ""
    print(f"{record['name']} on {record['data']}, {record['split']} split{part}")
    print(f"  {record['documents']:,} documents, {record['bytes']:,} bytes, "
          f"{record['tokens']:,} tokens")  # fmt: skip
    print(f"  {record['bpb']:8.4f}  bits per byte")
    for name, values in record["baselines"].items():
        order = f", order {values['order']}" if "order" in values else ""
        print(f"    {values['bpb']:8.4f}  {name}{order}: {values['how']}")
    print(f"  {record['loss']:8.4f}  nats per token")
    print(f"  {record['ppl']:8.3f}  perplexity per token")
    if record["word_ppl"] is not None:
        print(f"  {record['word_ppl']:8.2f}  perplexity per word, {record['words']:,} words with "
              "line ends; '<unk>' is spelt out, not a word of a closed vocabulary")  # fmt: skip
    print(f"  {record['accuracy']:8.2%}  of next tokens guessed")
    print(f"  Context: {record['policy']}.")
    print(f"Written to {path}")
