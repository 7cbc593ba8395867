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
from itera_lite.compress.start import Start, TextOptions, adopt, trial_folders
from itera_lite.data.prepare import prepare
from itera_lite.errors import UsageError
from itera_lite.evaluate.bits import first_bytes, validation_score
from itera_lite.export.types import SCHEMES
from itera_lite.model import LanguageModel
from itera_lite.records import Quantization, Summary
from itera_lite.train.compute import Compute
from itera_lite.train.run_files import RunFiles

SMALLEST_FIRST: tuple[Type, ...] = ("q4_0", "mixed", "q8_0")
EXPERTS_MINUTES = 3.0  # of training after experts are taken out, where none are given


@dataclass
class Fit:
    """Makes a model smaller: `to_size` or `within_loss`.

    Args:
        files: of the result, which the caller has claimed.
        explain: called with a sentence for each decision.
        made: called with the summary of each model that is written on the way.
    """

    start: Start
    files: RunFiles
    compute: Compute
    text: TextOptions
    explain: Callable[[str], None]
    made: Callable[[Summary], None]
    steps: list[str] = field(default_factory=list)

    def to_size(self, limit: int) -> Summary:
        """The mildest way with which the file has at most ``limit`` bytes.

        Returns:
            The result's summary, as it is written.

        Raises:
            UsageError: no way makes it that small; says how small it can become.
        """
        with self._trial() as trial:
            eight, four = (self._size(self.start.model, trial, kind) for kind in ("q8_0", "q4_0"))
            self._decide(
                f"{self.start.name}: {eight:,} bytes in 8 bits, {four:,} in 4; wanted {limit:,} "
                "at most"
            )
            if eight <= limit:
                self._decide("8 bits fit, and cost next to nothing: every matrix in 8 bits")
                return self._accept(trial, self._quantize(self.start, trial, "q8_0"))
            if four <= limit:
                self._decide(
                    "between the two: each matrix gets 8 or 4 bits, 4 where they cost least, with "
                    "a short training that rounds as the file does"
                )
                summary = self._quantize(self.start, trial, "mixed", max_bytes=limit)
                return self._accept(trial, summary)
            with self._fewer_experts(trial, limit, four) as smaller:
                self._decide(
                    "every matrix in 4 bits, with a short training that rounds as the file does"
                )
                return self._accept(trial, self._quantize(smaller, trial, "q4_0"))

    def within_loss(self, loss: float) -> Summary:
        """The smallest way with which bits per byte rise by at most a share.

        Returns:
            The result's summary, as it is written.

        Raises:
            UsageError: even 8 bits cost more; says how much.
        """
        start = self.start
        with self._trial() as trial:
            dataset = prepare(self.text.data, tokenizer=start.tokenizer, quiet=True)
            documents = list(first_bytes(dataset.documents("valid")))
            before = start.score(documents).bpb
            most = before * (1 + loss)
            self._decide(f"{start.name}: {before:.4f} bits per byte; {most:.4f} at most")
            for kind in SMALLEST_FIRST:
                model = rounded(start.model, kinds_of(start.model, SCHEMES[kind]))
                after = validation_score(model, start.tokenizer, documents).bpb
                if self._is_within(most, after, f"{kind}, plainly rounded"):
                    return self._accept(trial, self._quantize(start, trial, kind, "plain"))
                if kind == "q8_0":
                    break
                summary = self._quantize(start, trial, kind, "qat")
                assert isinstance(summary.compression, Quantization) and summary.compression.bpb
                after = summary.compression.bpb.after_engine
                if self._is_within(most, after, f"{kind}, trained for its rounding"):
                    return self._accept(trial, summary)
        raise UsageError(
            f"--max-loss {loss:.3%}: even 8 bits cost {after / before - 1:.3%} ({after:.4f} bits "
            "per byte). Give a larger --max-loss"
        )

    @contextmanager
    def _trial(self) -> Iterator[RunFiles]:
        """Files for what may be rejected, gone at the end of the block."""
        with trial_folders(self.files) as folders:
            trial = RunFiles(self.files.name, *folders)
            with _temporary(trial):
                yield trial

    def _decide(self, text: str) -> None:
        self.steps.append(text)
        self.explain(text)

    def _is_within(self, most: float, bpb: float, how: str) -> bool:
        good = bpb <= most
        self._decide(f"{how}: {bpb:.4f}, {'good enough' if good else 'too much'}")
        return good

    def _accept(self, trial: RunFiles, summary: Summary) -> Summary:
        assert summary.compression is not None
        summary.compression.steps = self.steps
        adopt(trial, self.files, summary)
        return summary

    def _quantize(
        self,
        start: Start,
        trial: RunFiles,
        type: Type,
        method: Method | None = None,
        max_bytes: int | None = None,
    ) -> Summary:
        method = method or usual_method(type, self.text)
        options = QuantizeOptions(type, method, max_bytes)
        summary = quantize(start, trial, self.compute, options, self.text)
        self.made(summary)
        return summary

    def _size(self, model: LanguageModel, trial: RunFiles, kind: str) -> int:
        """Bytes of the file with every matrix in one type."""
        start = replace(self.start, model=model)
        return start.file_bytes(kinds_of(model, SCHEMES[kind]), trial.best)

    @contextmanager
    def _fewer_experts(self, trial: RunFiles, limit: int, four: int) -> Iterator[Start]:
        """The model with as many experts as fit in 4 bits, on disk during the block.

        Raises:
            UsageError: not even the fewest fit; says how small the file can become.
        """
        start = self.start
        config = start.model.config
        sizes: dict[int, int] = {}
        for n in range(config.n_experts - 1, max(2, config.top_k) - 1, -1):
            smaller = LanguageModel(config.replace(n_experts=n))
            sizes[n] = self._size(smaller, trial, "q4_0")
        keep = next((n for n, size in sizes.items() if size <= limit), None)
        if keep is None:
            smallest = min(sizes.values(), default=four)
            raise UsageError(
                f"--target-bytes {limit:,}: the smallest that '{start.folder}' can become this "
                f"way is {smallest:,} bytes. For less, take a smaller vocabulary first (itera "
                "compress vocab), or let a smaller model learn from this one (itera compress "
                "distill)"
            )
        self._decide(
            f"4 bits alone don't fit: {keep} of {config.n_experts} experts stay, those that the "
            "text uses most, and a short training makes up for the others"
        )
        text = self.text
        if text.minutes is None:
            text = replace(text, minutes=EXPERTS_MINUTES)
        files = RunFiles(f"{trial.name}_e{keep}", trial.checkpoints, trial.results)
        with _temporary(files):
            dataset = prepare(text.data, tokenizer=start.tokenizer, quiet=self.compute.quiet)
            taken = take_out_experts(start, dataset, keep, max_loss=0.0)
            self.made(write_mixture(taken, start, dataset, files, self.compute, text, None))
            yield Start.load(files.best)


@contextmanager
def _temporary(files: RunFiles) -> Iterator[None]:
    """Hold a run's files for the block, and remove them at its end."""
    with files.claimed(overwrite=True):
        try:
            yield
        finally:
            files.discard()
