"""A callable for Ray Data's `map_batches`: adds the bits per byte of each text, as `itera score`.

import ray
from ray.data.expressions import col

from itera_lite.cluster.ray import BitsPerByte

(
    ray.data.read_parquet("s3://crawl/")
    .map_batches(
        BitsPerByte,
        fn_constructor_kwargs={"model": "/shared/model-q8_0.gguf"},
        batch_format="pyarrow",
        batch_size=1024,
    )
    .filter(expr=col("bits_per_byte") <= 1.2)
    .write_parquet("s3://kept/")
)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from itera_lite.engine.scorer import By, Scorer
from itera_lite.errors import DataError, MissingExtra, UsageError

if TYPE_CHECKING:
    import pyarrow as pa


class BitsPerByte:
    """Adds a column with the bits per byte of a column of texts.

    Ray makes one in each of its actors, so the model's file must lie under the same path on every
    machine. A batch's result depends on the batch alone: where an actor dies, Ray gives its
    batches to another one, and the result is the same.

    Args:
        model: GGUF file, or checkpoint folder (which needs PyTorch on every machine); None: the
            one that `itera score` finds.
        bad: a second model: the number is then the bits per byte under ``model`` minus those
            under ``bad``.
        by: the number: bits_per_byte, or surprise, as in `Scorer`.
        window: tokens of context at most, as in `itera score`.
        threads: texts scored at the same time; reserve as many with Ray's ``num_cpus``.
        text_column: the texts; a null counts as an empty one.
        column: the numbers; null for an empty text. By default its name is that of `itera score`:
            bits_per_byte or surprise, and with ``bad`` difference.

    Raises:
        CheckpointError, ModelFileError: there is no model, or it can't be used.
        MissingExtra: pyarrow isn't installed.
        UsageError: an option is out of its range.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        bad: str | Path | None = None,
        by: By = "bits_per_byte",
        window: int | None = None,
        threads: int = 1,
        text_column: str = "text",
        column: str | None = None,
    ) -> None:
        try:
            import pyarrow  # noqa: F401  (a missing package shows before any batch is sent)
        except ImportError as error:
            raise MissingExtra("pyarrow", "cluster", "Scoring in Ray Data") from error
        self.text_column = text_column
        self.scorer = Scorer(model, bad=bad, by=by, window=window, threads=threads)
        self.column = column or self.scorer.field

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The batch with one more column.

        Args:
            batch: a table, as ``map_batches(batch_format="pyarrow")`` gives it; other formats
                don't keep the types of all columns.

        Raises:
            UsageError: the batch is no table, or has a column of the result's name.
            DataError: there is no such column of texts.
        """
        import pyarrow as pa

        if not isinstance(batch, pa.Table):
            raise UsageError(
                f"a batch is of type {type(batch).__name__}: expected a pyarrow table. Call "
                'map_batches with batch_format="pyarrow"'
            )
        if self.column in batch.column_names:
            raise UsageError(
                f"there is a column '{self.column}' already: give the result another name with "
                "column=..."
            )
        if self.text_column not in batch.column_names:
            raise DataError(
                f"there is no column '{self.text_column}', but {', '.join(batch.column_names)}: "
                "name the one with the text with text_column=..."
            )
        texts = batch.column(self.text_column)
        if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
            raise DataError(
                f"the column '{self.text_column}' is of type {texts.type}: expected strings"
            )
        scores = self.scorer.score([text or "" for text in texts.to_pylist()])
        return batch.append_column(self.column, pa.array(scores, pa.float64()))
