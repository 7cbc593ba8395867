"""What an export wrote; apart from `itera_lite.export.gguf`, for the command line loads this first,
without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Format = Literal["gguf", "gguf.gz"]


@dataclass(frozen=True)
class StoredTensors:
    """The tensors of one stored type."""

    tensors: int = 0
    weights: int = 0
    bytes: int = 0

    def plus(self, weights: int, n_bytes: int) -> StoredTensors:
        """The same with one tensor more."""
        return StoredTensors(self.tensors + 1, self.weights + weights, self.bytes + n_bytes)


@dataclass(frozen=True)
class ExportSummary:
    """An exported file. As a string: some lines to print.

    Attributes:
        path: the file.
        type: the type that was asked for.
        bytes: size of the file, tokenizer and keys included.
        content_bytes: of the GGUF file that is in it, where it is compressed; else the same.
        by_type: the tensors of each stored type, by its name.
    """

    path: Path
    type: str
    bytes: int
    content_bytes: int
    by_type: dict[str, StoredTensors]

    @property
    def parameters(self) -> int:
        return sum(stored.weights for stored in self.by_type.values())

    @property
    def tensor_bytes(self) -> int:
        """Bytes of the weights, without tokenizer, keys and padding."""
        return sum(stored.bytes for stored in self.by_type.values())

    @property
    def bits_per_weight(self) -> float:
        """Mean bits of a weight, the blocks' scales included."""
        return 8 * self.tensor_bytes / self.parameters

    def __str__(self) -> str:
        lines = [
            str(self.path),
            f"  {self.parameters:,} parameters in {self.tensor_bytes:,} bytes: "
            f"{self.bits_per_weight:.2f} bits per weight, scales included",
        ]
        for name, stored in sorted(self.by_type.items(), key=lambda item: -item[1].weights):
            lines.append(
                f"    {name:<5}{stored.tensors:>4} tensors {stored.weights:>12,} weights "
                f"{stored.bytes:>12,} bytes"
            )
        rest = self.content_bytes - self.tensor_bytes
        lines.append(f"  {self.content_bytes:,} bytes the file: {rest:,} for tokenizer and keys")
        if self.bytes != self.content_bytes:
            lines.append(f"  {self.bytes:,} bytes compressed")
        return "\n".join(lines)


@dataclass(frozen=True)
class CSummary:
    """A model as a C file. As a string: some lines to print.

    Attributes:
        path: the file.
        bytes: size of the file, which is source text.
        by_type: the weights of each stored type, by its name.
        context: tokens that a text may have.
        flash: bytes of constants, on a 32-bit processor. The code comes on top.
        ram: bytes of variables. The stack comes on top.
        multiply_adds: of a token in the middle of the context.
        instructions: about how many that are on a Cortex-M7.
    """

    path: Path
    bytes: int
    by_type: dict[str, StoredTensors]
    context: int
    flash: int
    ram: int
    multiply_adds: int
    instructions: int

    @property
    def parameters(self) -> int:
        return sum(stored.weights for stored in self.by_type.values())

    def __str__(self) -> str:
        types = ", ".join(
            f"{stored.weights:,} in {name}"
            for name, stored in sorted(self.by_type.items(), key=lambda item: -item[1].weights)
        )
        return "\n".join(
            [
                str(self.path),
                f"  {self.parameters:,} parameters: {types}; context {self.context:,} tokens",
                f"  flash: {self.flash:,} bytes of constants, and some 10,000 of code",
                f"  RAM:   {self.ram:,} bytes, and 1,000 of stack",
                f"  a token after {self.context // 2:,} others: {self.multiply_adds:,} "
                f"multiply-adds, some {self.instructions / 1e6:.1f} million instructions of a "
                "Cortex-M7",
            ]
        )
