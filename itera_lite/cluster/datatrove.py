"""A filter of datatrove's pipelines: documents by their bits per byte, as `itera score` gives them.

It runs wherever datatrove does: on one machine, under Slurm, under Ray.

from datatrove.executor import SlurmPipelineExecutor
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter
from itera_lite.cluster.datatrove import BitsPerByteFilter

SlurmPipelineExecutor(
    [
        ParquetReader("/shared/crawl"),
        BitsPerByteFilter("/shared/model-q8_0.gguf", max_bits=1.2),
        ParquetWriter("/shared/kept"),
    ],
    tasks=1000, time="24:00:00", partition="cpu", logging_dir="/shared/logs",
).run()
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from itera_lite.engine.scorer import By, Scorer
from itera_lite.errors import MissingExtra, UsageError

try:
    from datatrove.pipeline.filters.base_filter import BaseFilter
except ImportError as error:
    raise MissingExtra("datatrove", "cluster", "A step of datatrove's pipelines") from error

if TYPE_CHECKING:
    from datatrove.data import Document
    from datatrove.pipeline.writers.disk_base import DiskWriter

EMPTY, ABOVE = "empty_text", "above_max_bits"  # why a document is dropped, in the statistics


class BitsPerByteFilter(BaseFilter):  # type: ignore[misc]
    """Keeps documents with at most so many bits per byte, and notes the number in the metadata.

    The step can be pickled: the paths and options travel, and each task loads the model, so the
    model's file must lie under the same path on every machine. datatrove's statistics get the
    number of each document, and count what is dropped, and why.

    Args:
        model: GGUF file, or checkpoint folder (which needs PyTorch on every machine); None: the
            one that `itera score` finds.
        max_bits: most bits per byte of a document that is kept; None keeps all. With ``bad``, the
            most that the difference may be; by surprise, the most surprise.
        bad: a second model: the number is then the bits per byte under ``model`` minus those
            under ``bad``.
        by: the number: bits_per_byte, or surprise, as in `Scorer`.
        window: tokens of context at most, as in `itera score`.
        threads: documents scored at the same time, in each of datatrove's tasks.
        field: name of the number in the metadata; by default that of `itera score`:
            bits_per_byte or surprise, and with ``bad`` difference.
        batch_size: documents that are scored together.
        exclusion_writer: gets the documents that are dropped.

    Raises:
        CheckpointError, ModelFileError: there is no model, or it can't be used.
        UsageError: an option is out of its range.
    """

    name = "Itera-Lite bits per byte"

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        max_bits: float | None,
        bad: str | Path | None = None,
        by: By = "bits_per_byte",
        window: int | None = None,
        threads: int = 1,
        field: str | None = None,
        batch_size: int = 256,
        exclusion_writer: DiskWriter | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size}: expected 1 or more documents")
        super().__init__(exclusion_writer, batch_size)
        self.max_bits = max_bits
        # Loaded here too: a model that can't be used fails before any task is sent.
        self.scorer = Scorer(model, bad=bad, by=by, window=window, threads=threads)
        self.field = field or self.scorer.field

    def filter(self, doc: Document) -> bool | tuple[bool, str]:
        """Whether a document is kept, or else why it isn't."""
        return self.filter_batch([doc])[0]

    def filter_batch(self, batch: list[Document]) -> list[bool | tuple[bool, str]]:
        """`filter` of several documents, which are scored together."""
        results: list[bool | tuple[bool, str]] = []
        for doc, score in zip(batch, self.scorer.score([d.text for d in batch]), strict=True):
            doc.metadata[self.field] = score
            if score is not None:
                self.stat_update(self.field, value=score, unit="doc")
            results.append(self._kept(score))
        return results

    def _kept(self, score: float | None) -> bool | tuple[bool, str]:
        if self.max_bits is None:
            return True
        if score is None:
            return False, EMPTY
        return True if score <= self.max_bits else (False, ABOVE)
