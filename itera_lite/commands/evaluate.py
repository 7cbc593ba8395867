"""The verb `eval`: how good a checkpoint is on held-out text, beside the floors."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from itera_lite.errors import CheckpointError, UsageError
from itera_lite.files import cache_folder, check_writable, folder_name, write_json
from itera_lite.quantities import bytes_of, threads_of, whole_number

DEFAULT_SEQ_LEN = 256


def evaluate(
    checkpoint: Path = Path("checkpoints/itera_lite_tiny"),
    *,
    data: str | None = None,
    split: str = "valid",
    seq_len: int | None = None,
    max_bytes: str | int | None = None,
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
        max_bytes: Evaluate a random choice of documents (fixed seed) of at most this size, such
            as 5KB or 1MB.
        baselines: Also measure xz, bzip2 and the Kneser-Ney model.
        threads: Processor threads; by default one a core, or OMP_NUM_THREADS.
        results: Folder of the result files.
    """
    import torch

    from itera_lite import ops
    from itera_lite.checkpoint.folder import load_checkpoint
    from itera_lite.config import preset_of
    from itera_lite.data.corpus import load_documents
    from itera_lite.evaluate.baselines import baselines as measure_baselines
    from itera_lite.evaluate.baselines import sample_documents
    from itera_lite.evaluate.bits import score_documents
    from itera_lite.evaluate.score import count_words, perplexity
    from itera_lite.machine.provenance import default_threads, provenance

    if seq_len is not None:
        whole_number("seq_len", seq_len)
    threads = default_threads() if threads is None else threads_of(threads)
    limit = None if max_bytes is None else bytes_of("max_bytes", max_bytes)
    checkpoint, results, name = Path(checkpoint), Path(results), folder_name(checkpoint)
    if checkpoint.is_file():
        raise UsageError(
            f"'{checkpoint}' is a file: `itera eval` takes the folder of a checkpoint. A GGUF file "
            "is measured with `itera score TEXT --checkpoint FILE`"
        )
    if not os.path.lexists(checkpoint):
        raise CheckpointError(
            f"no checkpoint at '{checkpoint}': expected a folder as `itera train` writes it"
        )
    output = results / f"{name}_eval.json"
    summary = _summary(results, name)
    trained_on = summary["dataset"]
    spec = data or trained_on.get("spec") or trained_on.get("name")
    if not spec or (data is None and spec == "-"):
        raise UsageError(
            f"no data given, and {results / f'{name}_summary.json'} doesn't say what "
            f"'{name}' was trained on: name a set or a path with --data"
        )
    if os.path.exists(output) and os.path.exists(spec) and os.path.samefile(output, spec):
        raise UsageError(f"the result would be written to the text itself, '{spec}': rename it")
    check_writable(output)
    model, tokenizer = load_checkpoint(checkpoint)
    problem = ops.enable()
    corpus = load_documents(spec)
    if split not in corpus.splits:
        raise UsageError(f"split={split!r}: '{spec}' has {', '.join(map(repr, corpus.splits))}")
    documents = corpus.splits[split]
    if limit is not None:
        documents = sample_documents(documents, limit)
    window = seq_len or summary["train"].get("seq_len") or DEFAULT_SEQ_LEN
    window = min(window, model.config.max_seq_len)

    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        total = sum(map(len, documents))
        with tqdm(total=total, unit="B", unit_scale=True, desc=name, disable=None) as bar:
            score = score_documents(
                model, tokenizer, documents, seq_len=window, progress=bar.update
            )
        record_of_machine = provenance()
    finally:
        torch.set_num_threads(threads_before)
    if not math.isfinite(score.nats):
        raise CheckpointError(
            f"'{checkpoint}' gives no finite probabilities ({score.nats} nats): its weights are "
            "damaged. Take another checkpoint"
        )
    words = count_words(documents) if _is_wikitext(spec) else None
    record: dict[str, Any] = {
        "name": name,
        "family": model.config.family,
        "preset": preset_of(model.config.to_dict()),
        "data": spec,
        "split": split,
        "bpb": score.bpb,
        "loss": score.loss,
        "ppl": _finite(score.ppl),
        "word_ppl": None if words is None else _finite(perplexity(score.nats, words)),
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
    try:
        if baselines:
            record["baselines"] = measure_baselines(
                corpus.splits["train"], documents, cache=_cache()
            )
        write_json(output, record)
    except BaseException:
        _print(record)  # the score took time: it isn't lost with what comes after it
        raise
    _print(record)
    print(f"Written to {output}")
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


def _summary(results: Path, name: str) -> dict[str, dict[str, Any]]:
    """What the training wrote about its text and its settings; empty where that isn't there."""
    try:
        found = json.loads((results / f"{name}_summary.json").read_text(encoding="utf-8"))
        return {part: dict(found.get(part, {})) for part in ("dataset", "train")}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {"dataset": {}, "train": {}}


def _cache() -> Path | None:
    """Where baselines are kept; None, with a note, where nothing says where that is."""
    try:
        return cache_folder()
    except UsageError as error:
        print(f"note: the baselines aren't kept for the next time: {error}", file=sys.stderr)
        return None


def _finite(perplexity: float) -> float | None:
    """The number; None where it is beyond what JSON holds."""
    return perplexity if math.isfinite(perplexity) else None


def _print(record: dict[str, Any]) -> None:
    part = ", a random choice of its documents" if record["sampled"] else ""
    print(f"{record['name']} on {record['data']}, {record['split']} split{part}")
    print(f"  {record['documents']:,} documents, {record['bytes']:,} bytes, "
          f"{record['tokens']:,} tokens")  # fmt: skip
    print(f"  {record['bpb']:8.4f}  bits per byte")
    for name, values in record["baselines"].items():
        order = f", order {values['order']}" if "order" in values else ""
        print(f"    {values['bpb']:8.4f}  {name}{order}: {values['how']}")
    print(f"  {record['loss']:8.4f}  nats per token")
    if record["ppl"] is not None:
        print(f"  {record['ppl']:8.3f}  perplexity per token")
    if record["word_ppl"] is not None:
        print(f"  {record['word_ppl']:8.2f}  perplexity per word, {record['words']:,} words with "
              "line ends; '<unk>' is spelt out, not a word of a closed vocabulary")  # fmt: skip
    print(f"  {record['accuracy']:8.2%}  of next tokens guessed")
    print(f"  Context: {record['policy']}.")
