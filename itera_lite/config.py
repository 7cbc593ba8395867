"""The shape of a model and the options of its training: plain data, checked on construction.

The architecture is data: `ModelConfig.pattern` has a letter a layer, ``m`` for Mamba-2 and ``a``
for attention, `FAMILIES` names the parts of those layers, and one `LanguageModel` builds them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from itera_lite.errors import ConfigError

Family = Literal["itera", "transformer", "gpt2"]
# The piece of a text that becomes one document of the training: see `itera_lite.data.units`
Unit = Literal["document", "paragraph", "line", "sentence"]


@dataclass(frozen=True)
class Parts:
    """The parts of a model's layers: what a family decides. The layer pattern isn't among them.

    Attributes:
        norm: ``rms`` (RMSNorm) or ``layer`` (LayerNorm, which has a bias).
        positions: ``none``, ``rotary`` (in attention) or ``learned`` (added to the embedding).
        feed_forward: ``swiglu`` (gated) or ``gelu``.
        bias: whether the projections of attention and feed-forward have biases.
        init: initial weights: ``identity`` (each block adds nothing at first) or ``gpt2`` (as
            Radford et al., 2019).
        optimizer: ``muon`` for the matrices and AdamW for the rest, or ``adamw`` for everything.
        gguf: the architecture's name in a GGUF file.
    """

    norm: Literal["rms", "layer"] = "rms"
    positions: Literal["none", "rotary", "learned"] = "none"
    feed_forward: Literal["swiglu", "gelu"] = "swiglu"
    bias: bool = False
    init: Literal["identity", "gpt2"] = "identity"
    optimizer: Literal["muon", "adamw"] = "muon"
    gguf: str = "granitehybrid"


FAMILIES: dict[Family, Parts] = {
    "itera": Parts(),
    "transformer": Parts(positions="rotary", gguf="llama"),
    "gpt2": Parts(
        "layer", "learned", "gelu", bias=True, init="gpt2", optimizer="adamw", gguf="gpt2"
    ),
}


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a language model.

    ``itera`` is a Hugging Face ``GraniteMoeHybrid`` (no positional encoding),
    ``transformer`` a ``Llama`` (rotary positions, dense feed-forward). Both
    have RMSNorm, SwiGLU and tied embeddings. ``gpt2`` is a ``GPT2LMHeadModel``
    (learned positions, LayerNorm, GELU, biases): the conventional reference.

    Raises:
        ConfigError: the shape can't be built; the message names the field.
    """

    family: Family
    pattern: str
    vocab_size: int
    d_model: int
    head_dim: int = 32
    n_kv_heads: int = 1
    d_ff: int = 0  # hidden width of the dense feed-forward, or of the shared expert
    n_experts: int = 0  # 0: dense feed-forward
    top_k: int = 2
    d_expert: int = 0  # hidden width of one expert
    d_state: int = 32
    ssm_head_dim: int = 32
    d_conv: int = 4
    max_seq_len: int = 8192
    rope_theta: float = 10_000.0  # transformer only
    norm_eps: float = 1e-5
    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0  # logits are divided by it

    @property
    def n_layers(self) -> int:
        return len(self.pattern)

    @property
    def n_heads(self) -> int:
        return self.d_model // self.head_dim

    @property
    def d_inner(self) -> int:
        """Width inside a Mamba-2 layer."""
        return 2 * self.d_model

    @property
    def n_ssm_heads(self) -> int:
        return self.d_inner // self.ssm_head_dim

    @property
    def d_conv_channels(self) -> int:
        """Channels of the Mamba-2 convolution: x, B and C."""
        return self.d_inner + 2 * self.d_state

    @property
    def parts(self) -> Parts:
        """What the layers are built from."""
        return FAMILIES[self.family]

    def __post_init__(self) -> None:
        def need(ok: bool, field: str, expected: str) -> None:
            if not ok:
                raise ConfigError(f"{field}={getattr(self, field)!r}: expected {expected}")

        need(self.family in list(FAMILIES), "family", "'itera', 'transformer' or 'gpt2'")
        need(
            bool(self.pattern) and set(self.pattern) <= {"m", "a"},
            "pattern",
            "a letter a layer, 'm' (Mamba-2) or 'a' (attention), such as 'mmam'",
        )
        if self.family == "itera":
            need("a" in self.pattern, "pattern", "at least one attention layer 'a'")
            need(
                self.ssm_head_dim > 0 and self.d_inner % self.ssm_head_dim == 0,
                "ssm_head_dim",
                f"a divisor of 2*d_model={self.d_inner}",
            )
        else:
            need(set(self.pattern) == {"a"}, "pattern", "only 'a' in a Transformer")
            need(self.n_experts == 0, "n_experts", "0 in a Transformer baseline")
        need(self.vocab_size >= 256, "vocab_size", "at least 256 (the bytes)")
        need(self.d_model > 0 and self.d_model % 32 == 0, "d_model", "a positive multiple of 32")
        need(
            self.head_dim > 0 and self.d_model % self.head_dim == 0 and self.head_dim % 2 == 0,
            "head_dim",
            f"an even divisor of d_model={self.d_model}",
        )
        if self.family == "gpt2":
            need(self.n_kv_heads == self.n_heads, "n_kv_heads", f"n_heads={self.n_heads} in gpt2")
        need(
            self.n_kv_heads > 0 and self.n_heads % self.n_kv_heads == 0,
            "n_kv_heads",
            f"a divisor of n_heads={self.n_heads}",
        )
        need(self.d_conv in (2, 3, 4), "d_conv", "2, 3 or 4")
        need(self.d_state > 0, "d_state", "a positive number")
        if self.n_experts:
            need(
                2 <= self.top_k <= self.n_experts,
                "top_k",
                f"from 2 (top-1 sends the router no gradient) to n_experts={self.n_experts}",
            )
            need(self.d_expert > 0, "d_expert", "a positive number with n_experts > 0")
        else:
            need(self.d_ff > 0, "d_ff", "a positive number in a dense model")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def replace(self, **changes: Any) -> ModelConfig:
        """A copy with some fields changed, checked again."""
        return replace(self, **changes)


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training.

    The learning rates rise for ``warmup``, stay, and fall to zero over the last ``decay``; both
    are shares of the budget. Where `Parts.optimizer` is ``adamw``, ``lr_other`` is the rate of all
    weights.
    """

    batch_size: int = 16  # sequences a step, over all processes
    seq_len: int = 256
    lr_matrix: float = 0.015  # Muon
    lr_embedding: float = 0.02  # AdamW: the embedding, which is the head too
    lr_other: float = 0.02  # AdamW: router, norms, convolution, state space
    weight_decay: float = 0.1
    momentum: float = 0.95  # of Muon
    beta2: float = 0.95  # of AdamW: what its mean of squared gradients keeps a step
    clip: float = 1.0
    dropout: float = 0.0  # of what a layer adds, and of a gpt2's embeddings
    warmup: float = 0.02
    decay: float = 0.6
    balance_weight: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for field, low in (("batch_size", 1), ("seq_len", 8), ("seed", 0)):
            value = getattr(self, field)
            if not isinstance(value, int) or value < low:
                raise ConfigError(f"{field}={value}: expected a whole number, {low} or more")
        for field in ("lr_matrix", "lr_embedding", "lr_other", "clip"):
            if not 0 < getattr(self, field) < math.inf:
                raise ConfigError(f"{field}={getattr(self, field)}: expected more than 0, finite")
        for field in ("weight_decay", "balance_weight"):
            if not 0 <= getattr(self, field) < math.inf:
                raise ConfigError(f"{field}={getattr(self, field)}: expected 0 or more, finite")
        for field in ("momentum", "beta2", "dropout"):
            if not 0 <= getattr(self, field) < 1:
                raise ConfigError(f"{field}={getattr(self, field)}: expected 0 or more, below 1")
        if not self.seed < 2**63:
            raise ConfigError(f"seed={self.seed}: expected 0 to 2^63 - 1")
        if not (0 <= self.warmup <= 1 and 0 <= self.decay <= 1):
            raise ConfigError(f"warmup={self.warmup}, decay={self.decay}: expected shares, 0 to 1")

    def factor(self, progress: float) -> float:
        """Share of the full learning rate after ``progress`` (0..1) of the budget."""
        rise = 1.0 if self.warmup == 0 else min(1.0, (progress + 1e-3) / self.warmup)
        fall = 1.0 if self.decay == 0 else min(1.0, max(0.0, 1.0 - progress) / self.decay)
        return min(rise, fall)


DEFAULT_VOCABULARY = 2048  # of the tokenizer that a training makes
REFERENCE_VOCABULARY = 32_768


def _shape(pattern: str, d_model: int, **others: int) -> dict[str, Any]:
    return {"pattern": pattern, "d_model": d_model, **others}


# The tiny pair keeps the old report's budgets: 1,886,496 and 1,829,120 parameters.
PRESETS: dict[str, dict[Family, dict[str, Any]]] = {
    "femto": {  # with 1,024 tokens about 0.23 MB in 4 bits, for the ladder
        "itera": _shape("ma", 64, n_experts=18, top_k=3, d_expert=32, d_state=8),
        "transformer": _shape("aaa", 64, d_ff=384, n_kv_heads=2),
    },
    "pico": {  # about 0.37 MB in 4 bits
        "itera": _shape("mam", 96, n_experts=6, top_k=3, d_expert=32, d_state=8),
        "transformer": _shape("aaa", 96, d_ff=224, n_kv_heads=3),
    },
    "nano": {  # half of tiny: about 0.6 MB in 4 bits
        "itera": _shape("mam", 128, n_experts=10, top_k=3, d_expert=32, d_state=8),
        "transformer": _shape("aaa", 128, d_ff=352, n_kv_heads=4),
    },
    "tiny": {
        "itera": _shape("mmam", 128, n_experts=24, top_k=3, d_expert=32, d_state=8),
        "transformer": _shape("aaaa", 192, d_ff=352, n_kv_heads=6),
    },
    "small": {
        "itera": _shape("mmam", 192, n_experts=8, d_expert=96, d_state=16),
        "transformer": _shape("aaaa", 256, d_ff=512, n_kv_heads=8),
    },
    "base": {
        "itera": _shape("mmammmam", 256, n_experts=8, d_expert=128, d_state=16),
        "transformer": _shape("aaaaaaaa", 320, d_ff=864, n_kv_heads=10),
    },
    # A Transformer with about the FLOPs a token of the tiny Itera model, for comparisons.
    "lean": {"transformer": _shape("aaaa", 128, d_ff=96, n_kv_heads=4)},
    # The smallest published model of stories, 260,032 parameters with a vocabulary of 512:
    # https://github.com/karpathy/llama2.c/blob/master/doc/stories260K.md
    "stories260k": {
        "transformer": _shape("aaaaa", 64, d_ff=172, n_kv_heads=4, head_dim=8, max_seq_len=512)
    },
    # The conventional models that the compression ladder starts from, with a vocabulary of 32,768:
    # 14.8, 9.1 and 5.1 M parameters.
    "reference": {"gpt2": _shape("aaaaaaaa", 256, d_ff=1024, n_kv_heads=8, max_seq_len=512)},
    "reference_medium": {"gpt2": _shape("aaaaaa", 192, d_ff=768, n_kv_heads=6, max_seq_len=512)},
    "reference_small": {"gpt2": _shape("aaaa", 128, d_ff=512, n_kv_heads=4, max_seq_len=512)},
}
NAMES: dict[Family, str] = {"itera": "itera_lite", "transformer": "transformer"}  # the pair


# The peak learning rate of a gpt2 model, as a function of its width and of the tokens it reads:
# RATE * WIDTH / width * (TOKENS / tokens)^FALL, and for fewer tokens as for TOKENS.
REFERENCE_RATE = 2e-3  # the best at REFERENCE_WIDTH and REFERENCE_TOKENS (experiments/LOG.md)
REFERENCE_WIDTH = 128
REFERENCE_TOKENS = 660_000
REFERENCE_FALL = 0.32  # Bjorck et al., 2024 (arXiv:2409.19913)


def reference_recipe(d_model: int, tokens: float) -> dict[str, Any]:
    """Default fields of `TrainConfig` for a gpt2 model.

    Args:
        d_model: its width; the best rate halves where the width doubles.
        tokens: that the whole training reads, about; the longer it is, the lower its best rate.
    """
    rate = REFERENCE_RATE * REFERENCE_WIDTH / d_model
    rate *= min(1.0, REFERENCE_TOKENS / tokens) ** REFERENCE_FALL
    return {"lr_other": rate, "weight_decay": 0.1, "decay": 1.0, "batch_size": 8}


def preset(family: Family, size: str, vocab_size: int) -> ModelConfig:
    """A model of one of the sizes in `PRESETS`.

    Raises:
        ConfigError: for a size that isn't there.
    """
    if size not in PRESETS:
        raise ConfigError(f"config={size!r}: expected one of {', '.join(PRESETS)}")
    if family not in PRESETS[size]:
        raise ConfigError(f"config={size!r} has no {family} model: only {', '.join(PRESETS[size])}")
    return ModelConfig(family, vocab_size=vocab_size, **PRESETS[size][family])


def preset_of(config: Mapping[str, Any]) -> str | None:
    """The preset that has this shape, whatever the vocabulary; None if no preset has it.

    Args:
        config: from `ModelConfig.to_dict`; one of an older version may lack fields.
    """
    for size, families in PRESETS.items():
        named = dict[Any, dict[str, Any]](families).get(config.get("family"))
        if named is None or not named.keys() <= config.keys():
            continue
        shape = preset(config["family"], size, REFERENCE_VOCABULARY).to_dict()
        del shape["vocab_size"]
        if all(config.get(key, value) == value for key, value in shape.items()):
            return size
    return None
