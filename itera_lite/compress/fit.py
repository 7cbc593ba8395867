"""Makes a model fit a size, or stay within a loss: picks a way to compress it, and applies it.

Everything is tried in folders beside the result, so that an older result stays as it is until
another one is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from itera_lite.compress.experts import take_out_experts, write_mixture
from itera_lite.compress.quantize import Method, QuantizeOptions, Type, quantize, usual_method
from itera_lite.compress.rounding import kinds_of, rounded
from itera_lite.compress.start import Job, Start, remove_folders
from itera_lite.errors import UsageError
from itera_lite.evaluate.bits import first_bytes, validation_score
from itera_lite.export.types import SCHEMES
from itera_lite.model import LanguageModel
from itera_lite.records import Quantization, Summary

SMALLEST_FIRST: tuple[Type, ...] = ("q4_0", "mixed", "q8_0")
EXPERTS_MINUTES = 3.0  # of training after experts are taken out, where none are given


@dataclass
class Fit:
    """Makes a model smaller: `to_size` or `within_loss`. Each gives the result's summary.

    Args:
        explain: called with a sentence for each decision.
        made: called with the summary of each model that is written on the way.
    """

    job: Job
    explain: Callable[[str], None]
    made: Callable[[Summary], None]
    steps: list[str] = field(default_factory=list)

    def to_size(self, limit: int) -> Summary:
        """The mildest way with which the file has at most ``limit`` bytes.

        Raises:
            UsageError: no way makes it that small; says how small it can become.
        """
        start = self.job.start
        with _temporary(self.job.trial(self.job.files.name)) as trial:
            eight, four = (_size(trial, start.model, kind) for kind in ("q8_0", "q4_0"))
            self._decide(
                f"{start.name}: {eight:,} bytes in 8 bits, {four:,} in 4; wanted {limit:,} at most"
            )
            if eight <= limit:
                self._decide("8 bits fit, and cost next to nothing: every matrix in 8 bits")
                return self._accept(trial, self._quantize(trial, "q8_0"))
            if four <= limit:
                self._decide(
                    "between the two: each matrix gets 8 or 4 bits, 4 where they cost least, with "
                    "a short training that rounds as the file does"
                )
                return self._accept(trial, self._quantize(trial, "mixed", max_bytes=limit))
            with self._fewer_experts(trial, limit, four) as smaller:
                self._decide(
                    "every matrix in 4 bits, with a short training that rounds as the file does"
                )
                return self._accept(trial, self._quantize(replace(trial, start=smaller), "q4_0"))

    def within_loss(self, loss: float) -> Summary:
        """The smallest way with which bits per byte rise by at most a share.

        Raises:
            UsageError: even 8 bits cost more; says how much.
        """
        start = self.job.start
        with _temporary(self.job.trial(self.job.files.name)) as trial:
            documents = list(first_bytes(trial.prepare().documents("valid")))
            before = start.score(documents, trial.workers).bpb
            most = before * (1 + loss)
            self._decide(f"{start.name}: {before:.4f} bits per byte; {most:.4f} at most")
            for kind in SMALLEST_FIRST:
                model = rounded(start.model, kinds_of(start.model, SCHEMES[kind]))
                after = validation_score(*(model, start.tokenizer, documents, trial.workers)).bpb
                if self._is_good(after, most, f"{kind}, plainly rounded"):
                    return self._accept(trial, self._quantize(trial, kind, "plain"))
                if kind == "q8_0":
                    break
                summary = self._quantize(trial, kind, "qat")
                assert isinstance(summary.compression, Quantization) and summary.compression.bpb
                after = summary.compression.bpb.after_engine
                if self._is_good(after, most, f"{kind}, trained for its rounding"):
                    return self._accept(trial, summary)
        raise UsageError(
            f"--max-loss {loss:.3%}: even 8 bits cost {after / before - 1:.3%} ({after:.4f} bits "
            "per byte). Give a larger --max-loss"
        )

    def _decide(self, text: str) -> None:
        self.steps.append(text)
        self.explain(text)

    def _is_good(self, bpb: float, most: float, how: str) -> bool:
        self._decide(f"{how}: {bpb:.4f}, {'good enough' if bpb <= most else 'too much'}")
        return bpb <= most

    def _accept(self, trial: Job, summary: Summary) -> Summary:
        assert summary.compression is not None
        summary.compression.steps = self.steps
        self.job.adopt(trial.files, summary)
        return summary

    def _quantize(
        self, trial: Job, type: Type, method: Method | None = None, max_bytes: int | None = None
    ) -> Summary:
        method = method or usual_method(type, trial.text)
        summary = quantize(trial, QuantizeOptions(type, method, max_bytes))
        self.made(summary)
        return summary

    @contextmanager
    def _fewer_experts(self, trial: Job, limit: int, four: int) -> Iterator[Start]:
        """The model with as many experts as fit in 4 bits, on disk during the block.

        Raises:
            UsageError: not even the fewest fit; says how small the file can become.
        """
        start = trial.start
        config = start.model.config
        numbers = range(config.n_experts - 1, max(2, config.top_k) - 1, -1)
        shapes = {n: LanguageModel(config.replace(n_experts=n)) for n in numbers}
        sizes = {n: _size(trial, model, "q4_0") for n, model in shapes.items()}
        keep = next((n for n, size in sizes.items() if size <= limit), None)
        if keep is None:
            raise UsageError(
                f"--target-bytes {limit:,}: the smallest that '{start.folder}' can become this "
                f"way is {min(sizes.values(), default=four):,} bytes. For less, take a smaller "
                "vocabulary first (itera compress vocab), or let a smaller model learn from this "
                "one (itera compress distill)"
            )
        self._decide(
            f"4 bits alone don't fit: {keep} of {config.n_experts} experts stay, those that the "
            "text uses most, and a short training makes up for the others"
        )
        minutes = EXPERTS_MINUTES if trial.text.minutes is None else trial.text.minutes
        job = replace(
            self.job.trial(f"{trial.files.name}_e{keep}"),
            text=replace(trial.text, minutes=minutes),
        )
        with _temporary(job):
            dataset = job.prepare()
            smaller = take_out_experts(start, dataset, job.workers, keep)
            self.made(write_mixture(job, dataset, *smaller))
            yield Start.load(job.files.best)


def _size(job: Job, model: LanguageModel, kind: str) -> int:
    """Bytes of the file of the job's result with every matrix in one type."""
    start = replace(job.start, model=model)
    return start.file_bytes(kinds_of(model, SCHEMES[kind]), job.files.best)


@contextmanager
def _temporary(job: Job) -> Iterator[Job]:
    """Hold a job's files for the block, and remove them at its end."""
    try:
        with job.files.claimed(overwrite=True):
            try:
                yield job
            finally:
                job.files.discard()
    finally:
        remove_folders(job.files)
