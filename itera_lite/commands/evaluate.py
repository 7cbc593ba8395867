"""The verb `eval`: how good a checkpoint is on held-out text, beside the baselines."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from itera_lite.commands.options import WorkerCount
from itera_lite.errors import CheckpointError, IteraError, UsageError
from itera_lite.files import cache_folder, check_writable, folder_name
from itera_lite.quantities import bytes_of, check_numbers, whole_number
from itera_lite.records import Evaluation, Summary

DEFAULT_SEQ_LEN = 256


def evaluate(
    checkpoint: Path = Path("checkpoints/itera_lite_tiny"),
    *,
    data: str | None = None,
    split: str = "valid",
    seq_len: int | None = None,
    max_bytes: str | int | None = None,
    baselines: bool = True,
    workers: WorkerCount = None,
    results: Path = Path("results"),
) -> Evaluation:
    """Measure the quality of a checkpoint.

    Bits per byte, loss, perplexity and next-token accuracy on held-out text, beside what
    compressors (xz, bzip2; PPMd and zpaq where installed) and a Kneser-Ney byte model reach on
    the same text. Writes NAME_eval.json.

    Args:
        checkpoint: Folder of the model; its name is the NAME of the result file.
        data: Set or path to evaluate on; by default the one that it was trained on.
        split: Part of the set: valid, or test where the set has one.
        seq_len: Longest window in tokens; by default the one of the training.
        max_bytes: Evaluate a random choice of documents (fixed seed) of at most this size, such
            as 5KB or 1MB.
        baselines: Also measure the compressors and the Kneser-Ney model.
        workers: How many cores compute at once; by default all, or OMP_NUM_THREADS.
        results: Folder of the result files.
    """
    from itera_lite.checkpoint.folder import load_checkpoint
    from itera_lite.evaluate.baselines import MAX_TRAIN_BYTES
    from itera_lite.evaluate.baselines import baselines as measure_baselines
    from itera_lite.evaluate.documents import read_documents
    from itera_lite.evaluate.evaluate import evaluate_model, prepared
    from itera_lite.machine.processor import default_threads
    from itera_lite.workers import Workers

    if seq_len is not None:
        whole_number("seq_len", seq_len)
    check_numbers(workers=workers)
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
    summary = _summary(results / f"{name}_summary.json")
    source = data or (summary and summary.dataset and summary.dataset.source)
    if not source or (data is None and source == "-"):
        raise UsageError(
            f"no data given, and {results / f'{name}_summary.json'} doesn't say what "
            f"'{name}' was trained on: name a set or a path with --data"
        )
    output = results / f"{name}_eval.json"
    if os.path.exists(output) and os.path.exists(source) and os.path.samefile(output, source):
        raise UsageError(f"the result would be written to the text itself, '{source}': rename it")
    check_writable(output)
    model, tokenizer = load_checkpoint(checkpoint)
    window = seq_len or (summary.training.seq_len if summary and summary.training else None)
    with prepared(source, tokenizer) as dataset:
        record = evaluate_model(
            *(name, model, dataset, source, split, limit),
            window=window or DEFAULT_SEQ_LEN,
            workers=Workers(workers or default_threads()),
        )
        try:
            if baselines:
                training = read_documents(dataset, "train", MAX_TRAIN_BYTES)
                documents = read_documents(dataset, split, limit)
                record.baselines = measure_baselines(training, documents, cache=_cache())
            record.write(output)
        finally:
            _print(record)  # the score took time: it isn't lost with what comes after it
    print(f"Written to {output}")
    return record


def _summary(path: Path) -> Summary | None:
    """What the training wrote about its text and its window; None where that can't be read."""
    try:
        return Summary.read(path)
    except IteraError:
        return None


def _cache() -> Path | None:
    """The cache folder for baselines; None, with a printed note, where no such folder is known."""
    try:
        return cache_folder()
    except UsageError as error:
        print(f"note: the baselines aren't kept for the next time: {error}", file=sys.stderr)
        return None


def _print(record: Evaluation) -> None:
    part = ", a random choice of its documents" if record.sampled else ""
    print(f"{record.model.name} on {record.source}, {record.split} split{part}")
    print(f"  {record.documents:,} documents, {record.bytes:,} bytes, {record.tokens:,} tokens")
    print(f"  {record.bpb:8.4f}  bits per byte")
    for name, baseline in record.baselines.items():
        order = f", order {baseline.order}" if baseline.order is not None else ""
        print(f"    {baseline.bpb:8.4f}  {name}{order}: {baseline.how}")
    print(f"  {record.loss:8.4f}  nats per token")
    if record.ppl is not None:
        print(f"  {record.ppl:8.3f}  perplexity per token")
    if record.word_ppl is not None:
        print(f"  {record.word_ppl:8.2f}  perplexity per word, {record.words:,} words with "
              "line ends; '<unk>' is spelt out, not a word of a closed vocabulary")  # fmt: skip
    print(f"  {record.accuracy:8.2%}  of next tokens guessed")
    print(f"  Context: {record.policy}.")
