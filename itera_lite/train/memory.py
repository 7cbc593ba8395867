"""How much memory trainings need: estimated from shapes before anything is allocated.

A warning where it may not be enough, for the estimate may be wrong; a refusal only where even the
weights, their gradient and the optimizer's state can't fit, whatever else runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from itera_lite.config import ModelConfig, TrainConfig
from itera_lite.errors import IteraWarning, TrainingError
from itera_lite.machine.memory import Memory, memory
from itera_lite.model.cost import cost
from itera_lite.train.step import LEAST_PARTS, MICRO_TOKENS

NUMBER = 4  # bytes: all is kept in float32
PROCESS = 350_000_000  # bytes of Python, PyTorch and the fused operations
BACKWARD = 2.0  # numbers of a micro-batch, of which the forward pass keeps one
SAVED = 3  # copies of the weights while a checkpoint is written
NEAR = 0.9  # of the free memory, from where on there is a warning


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that one training takes, beside `PROCESS`.

    Attributes:
        least: weights, gradient and the optimizer's state.
        packed: further ones for the weights in both orders that the products read.
        saving: further ones while a checkpoint is written.
        worker: of each worker, while the training has its turn.
    """

    least: int
    packed: int
    saving: int
    worker: int

    @classmethod
    def of(cls, shape: ModelConfig, config: TrainConfig, holders: int = 1) -> MemoryNeed:
        """The need of a model's training in one process.

        Args:
            holders: processes that hold a part of the model each (`train.sharded`).
        """
        counts = cost(shape)
        total, embedding = counts.params_total, counts.params_embedding
        # Muon keeps one number a weight, AdamW two.
        state = 2 * total if shape.parts.optimizer == "adamw" else total + embedding
        rows = max(1, min(MICRO_TOKENS // config.seq_len, config.batch_size // LEAST_PARTS))
        numbers = BACKWARD * rows * config.seq_len * _numbers_a_token(shape)
        return cls(
            least=NUMBER * -(-(2 * total + state) // holders),
            packed=2 * NUMBER * -(-total // holders),
            saving=NUMBER * SAVED * total,  # of the whole model, sharded or not
            worker=int(NUMBER * (total + numbers)),
        )


def _numbers_a_token(shape: ModelConfig) -> int:
    """Numbers that the forward pass of a training keeps for a token, about."""
    c = shape
    kv = c.n_kv_heads * c.head_dim
    mamba = 4 * c.d_inner + c.d_conv_channels + 2 * c.d_state
    attention = 3 * c.d_model + 2 * kv
    hidden = c.d_ff + (c.top_k * c.d_expert if c.n_experts else 0)
    layer = 4 * c.d_model + 4 * hidden + c.n_experts
    mixers = c.pattern.count("m") * mamba + c.pattern.count("a") * attention
    return mixers + c.n_layers * layer + 2 * c.vocab_size


def estimate(needs: Sequence[MemoryNeed], workers: int) -> int:
    """Bytes of a process in which trainings take turns."""
    kept = sum(need.least + need.packed for need in needs)
    most = max((need.worker * workers + need.saving for need in needs), default=0)
    return PROCESS + kept + most


def check_memory(
    needs: Sequence[MemoryNeed], workers: int, processes: int = 1, found: Memory | None = None
) -> None:
    """Compare an estimate with the memory that there is.

    Args:
        needs: one for each of the trainings that take turns.
        processes: number of processes on this machine that train them.
        found: the memory that there is; by default this machine's is read.

    Raises:
        TrainingError: not even the weights, gradients and optimizers' states fit.
    """
    found = found or memory()
    least = sum(need.least for need in needs) * processes
    wanted = estimate(needs, workers) * processes
    advice = _advice(needs, workers)
    if found.most is not None and least > found.most:
        raise TrainingError(
            f"not enough memory: weights, gradient and optimizer take {_gb(least)} alone, and "
            f"this process can have {_gb(found.most)} at most. {advice}"
        )
    if found.free is not None and wanted > NEAR * found.free:
        warnings.warn(
            f"the training takes about {_gb(wanted)} of memory, and {_gb(found.free)} are free: "
            f"the system may end it. {advice}",
            IteraWarning,
            stacklevel=2,
        )


def _advice(needs: Sequence[MemoryNeed], workers: int) -> str:
    """What to lower."""
    ways = []
    if workers > 1:
        a_worker = max((need.worker for need in needs), default=0)
        ways.append(f"fewer --workers (each takes {_gb(a_worker)})")
    if len(needs) > 1:
        ways.append("one --model at a time")
    ways.append("a smaller --config, --vocab-size or --seq-len")
    return f"Take {', or '.join(ways)}"


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:,.2f} GB"
