"""The tables of docs/scaling.md: how training scaled here, and how it would over many nodes.

The second kind is the arithmetic of that page, on the speed of training in committed records.
``python -m tools.readme`` writes them into the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from itera_lite.bench.table import scaling_rows
from itera_lite.config import ModelConfig, TrainConfig
from itera_lite.errors import IteraError
from itera_lite.model import LanguageModel
from itera_lite.model.cost import cost
from itera_lite.records import Scaling, Summary
from itera_lite.report.results import Results
from itera_lite.report.text import paragraphs, table
from itera_lite.train.optim import COEFFICIENTS, Optimizer, part_of

BATCHES = (16, 64)  # rows
NETWORKS = ((1, 50e-6), (10, 30e-6), (100, 10e-6))  # Gbit/s, and seconds of latency of a message
NODES = (2, 4, 8, 16, 64)


@dataclass(frozen=True)
class Node:
    """A node that trains a model.

    Attributes:
        name: of the model.
        row: FLOPs of training a row; ``optimizer``: of a step's updates.
        speed: FLOP/s of both together.
        gradients: bytes.
        batch: rows of the training's own step.
    """

    name: str
    row: float
    optimizer: float
    speed: float
    gradients: int
    batch: int

    @classmethod
    def of(cls, summary: Summary) -> Node:
        """The node of a finished training.

        Raises:
            IteraError: the record has no training.
        """
        shape, training = summary.model.config, summary.training
        if shape is None or training is None:
            raise IteraError(f"'{summary.model.name}' has no training")
        found = cost(shape, training.seq_len)
        row, optimizer = training.seq_len * found.flops_train, float(optimizer_flops(shape))
        seconds = training.batch_size * training.seq_len / training.tokens_per_second
        speed = (training.batch_size * row + optimizer) / seconds
        gradients = 4 * found.params_total
        return cls(summary.model.name, row, optimizer, speed, gradients, training.batch_size)

    def seconds(self, nodes: int, rows: int, bandwidth: float, latency: float) -> float:
        """Of a step of so many nodes, after the formula of docs/scaling.md."""
        computing = rows * self.row / nodes + self.optimizer
        messages = 2 * (nodes - 1)
        sending = messages / nodes * self.gradients / bandwidth + messages * latency
        return computing / self.speed + sending


def measured_table(record: Scaling) -> str:
    """What `itera bench scaling` found: all processes with one batch, then each with its own."""
    return paragraphs(
        f"`{record.model.name}`, {record.model.params.total:,} parameters, {record.cores} cores, "
        f"{record.precision}, {record.seq_len} tokens a row, medians of "
        f"{record.strong[0].tokens_per_second.repeats} repeats. All share one batch:",
        table(*scaling_rows(record.strong)),
        "Each has a batch:",
        table(*scaling_rows(record.weak)),
    )


def optimizer_flops(shape: ModelConfig) -> int:
    """FLOPs of Muon's matrix products in a step; AdamW's few operations a weight aren't counted."""
    optimizer = Optimizer(LanguageModel(shape), TrainConfig())
    total = 0
    for i, parts in optimizer.matrices.items():
        for rows in parts:
            count, *sides = part_of(optimizer.parameters[i], rows).shape
            short, long = sorted(sides)
            total += 2 * len(COEFFICIENTS) * count * short * short * (2 * long + short)
    return total


def scaling_table(results: Results) -> str:
    """What the nodes are, then their speed over one node.

    Raises:
        IteraError: no Itera model was trained.
    """
    summaries = [model.summary for model in results.models if model.family == "itera"]
    nodes = [Node.of(summary) for summary in summaries if summary is not None]
    if not nodes:
        raise IteraError(f"'{results.folder}' has no training of an Itera model")
    about = [
        [
            f"`{node.name}`",
            f"{node.gradients / 1e6:.1f} MB",
            f"{node.seconds(1, node.batch, 1, 0) * 1e3:.0f} ms",
            f"{node.optimizer / node.speed * 1e3:.0f} ms",
            f"{node.speed / 1e9:.0f} GFLOP/s",
        ]
        for node in nodes
    ]
    counts = *map(str, NODES[:-1]), f"{NODES[-1]} nodes"
    return paragraphs(
        table(["model", "gradients", "a step", "of it the optimizer", "`S`"], about),
        table(
            ["model", "rows a step", "Gbit/s", *counts, "limit"],
            (row for node in nodes for row in _speeds(node)),
        ),
    )


def _speeds(node: Node) -> Iterator[list[str]]:
    for rows in BATCHES:
        alone = node.seconds(1, rows, 1, 0)
        for gigabits, latency in NETWORKS:
            bandwidth = gigabits * 1e9 / 8
            found = [
                f"{alone / node.seconds(n, rows, bandwidth, latency):.1f}" if n <= rows else "—"
                for n in NODES
            ]
            endless = node.optimizer / node.speed + 2 * node.gradients / bandwidth
            yield [f"`{node.name}`", str(rows), str(gigabits), *found, f"{alone / endless:.1f}"]
