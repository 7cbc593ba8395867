"""The verb `compress experts`: a mixture without the experts that the user's text doesn't use."""

from __future__ import annotations

from pathlib import Path

from itera_lite.commands.options import WorkerCount
from itera_lite.compress.experts import take_out_experts, write_mixture
from itera_lite.compress.start import Job, Start, TextOptions
from itera_lite.data.prepare import prepare
from itera_lite.errors import UsageError
from itera_lite.machine.peak import torch_threads
from itera_lite.quantities import check_numbers, share_of, whole_number
from itera_lite.records import FewerExperts, Summary
from itera_lite.train.compute import Compute


def experts(
    checkpoint: Path,
    *,
    data: str,
    keep: int | None = None,
    max_loss: str | None = None,
    merge: bool = False,
    minutes: float | None = None,
    tokens: str | None = None,
    seed: int = 0,
    name: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    workers: WorkerCount = None,
    quiet: bool = False,
    checkpoints: Path = Path("checkpoints"),
    results: Path = Path("results"),
) -> Summary:
    """Take out the experts that your text hardly uses.

    Measures how much the text uses each expert, and drops or merges the least used ones, the
    same number in every layer. The checkpoint itself stays as it is.

    Args:
        checkpoint: Folder of an Itera model with experts.
        data: Set or path whose use of the experts counts, as in train.
        keep: Experts to keep in each layer.
        max_loss: Instead, as few as keep bits per byte within this of before; by default 1%.
        merge: Average the experts that go into those most like them, instead of dropping them.
        minutes: Training afterwards; none by default. --max-loss holds before it.
        tokens: Train on this many tokens afterwards instead, such as 2M.
        seed: Of the order of the text.
        name: Name of the result; by default the checkpoint's with _e and the number kept.
        resume: Go on where the training afterwards was stopped.
        overwrite: Replace a model of this name, if there is one.
        workers: How many cores compute at once; by default all.
        quiet: No progress bar.
        checkpoints: Folder of the checkpoints.
        results: Folder of the result files.

    Returns:
        The summary. Its ``compression`` says what it began from, how much each expert was
        used, and bits per byte before, after dropping, after merging and after training.
    """
    text = TextOptions(data, minutes, tokens, seed, resume)
    check_numbers(workers=workers)
    limit = None if max_loss is None else share_of("max-loss", max_loss)
    if keep is not None:
        whole_number("keep", keep)
    start = Start.load(checkpoint)
    config = start.model.config
    if not config.n_experts:
        raise UsageError(
            f"'{start.folder}' is a dense model: there are no experts to take out. Expected an "
            "Itera model with experts"
        )
    if keep is not None and max_loss is not None:
        raise UsageError("--keep and --max-loss each decide how many stay: give one of them")
    least = max(2, config.top_k)
    if keep is not None and not least <= keep < config.n_experts:
        raise UsageError(
            f"--keep {keep}: '{start.folder}' has {config.n_experts} experts a layer and sends a "
            f"token to {config.top_k}: expected {least} to {config.n_experts - 1}"
        )
    with torch_threads():
        compute = Compute.prepare(workers=workers, quiet=quiet)
        dataset = prepare(data, tokenizer=start.tokenizer, quiet=quiet)
        model, score, record = take_out_experts(
            *(start, dataset, compute.workers, keep, limit, merge)
        )
        with start.claimed(
            *(name, f"{start.name}_e{record.keep}", checkpoints, results),
            resume=resume,
            overwrite=overwrite,
        ) as files:
            compute = compute.in_precision(files.precision(resume))
            summary = write_mixture(Job(start, text, compute, files), dataset, model, score, record)
    if not quiet:
        print(describe_experts(summary))
    return summary


def describe_experts(summary: Summary) -> str:
    """What was taken out and what it cost, in a line."""
    made, model = summary.compression, summary.model
    assert isinstance(made, FewerExperts) and made.start
    bpb = made.bpb
    steps = (("dropped", bpb.dropped), ("merged", bpb.merged), ("trained", bpb.trained))
    return (
        f"{model.name}: {made.start.n_experts} -> {made.keep} experts a layer, which had all but "
        f"{max(made.usage.weight_lost):.1%} of the gate weight or more; {made.start.params:,} -> "
        f"{model.params.total:,} parameters; bits per byte {bpb.before:.4f} before, "
        + ", ".join(f"{found:.4f} {step}" for step, found in steps if found is not None)
    )
