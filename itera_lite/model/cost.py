"""Counts parameters, FLOPs and bytes of a model from its shape.

FLOPs: a multiply-add is 2. The output head and the router count; an embedding look-up is 0;
element-wise work (norms, activations, gates) doesn't count, as in PyTorch's own counter. The
state-space scan counts as the recurrence (5 FLOPs a state element: decay, update, output), not as
its chunked form, which needs more. Attention counts the positions that a causal mask lets through.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from itera_lite.config import ModelConfig, preset_of
from itera_lite.records import ModelDescription, Params


@dataclass(frozen=True)
class Cost:
    """FLOPs are per token; ``context`` is the number of positions they refer to."""

    context: int
    params_total: int
    params_embedding: int
    params_non_embedding: int
    params_active: int  # used by a token: all but the experts it isn't sent to
    flops_forward: float  # mean over a sequence of ``context`` tokens
    flops_decode: float  # one token more after ``context`` tokens
    flops_train: float  # forward and backward: three times forward
    state_floats_fixed: int  # numbers in the state that don't grow
    state_floats_per_token: int  # numbers that each token of context adds
    breakdown: dict[str, float] = field(default_factory=dict)  # of flops_forward

    @property
    def params(self) -> Params:
        """The parameters, as result files hold them."""
        return Params(
            total=self.params_total,
            embedding=self.params_embedding,
            non_embedding=self.params_non_embedding,
            active=self.params_active,
        )

    def state_bytes(self, context: int, bytes_per_number: int = 4) -> int:
        """Bytes of the decoding state after ``context`` tokens."""
        numbers = self.state_floats_fixed + context * self.state_floats_per_token
        return numbers * bytes_per_number


def cost(config: ModelConfig, context: int = 256) -> Cost:
    """The cost of a model at ``context`` tokens, without building it."""
    c = config
    d, inner, heads = c.d_model, c.d_inner, c.n_ssm_heads
    kv = c.n_kv_heads * c.head_dim
    mamba_in = 2 * inner + 2 * c.d_state + heads
    n_mamba, n_attention = c.pattern.count("m"), c.pattern.count("a")

    mamba_matrices = d * mamba_in + inner * d
    mamba_params = mamba_matrices + c.d_conv_channels * (c.d_conv + 1) + 3 * heads + inner
    attention_matrices = 2 * d * d + 2 * d * kv
    expert = 3 * d * c.d_expert
    router = d * c.n_experts
    shared = (3 if c.parts.feed_forward == "swiglu" else 2) * d * c.d_ff
    norm = d if c.parts.norm == "rms" else 2 * d
    biases = 2 * d + 2 * kv + c.d_ff + d if c.parts.bias else 0
    ffn_params = shared + c.n_experts * expert + router
    ffn_active = shared + (c.top_k * expert + router if c.n_experts else 0)

    embedding = c.vocab_size * d
    layers = n_mamba * mamba_params + n_attention * attention_matrices
    layers += c.n_layers * (ffn_params + biases + 2 * norm) + norm
    if c.parts.positions == "learned":
        embedding += c.max_seq_len * d
    total = embedding + layers
    active = total - c.n_layers * (ffn_params - ffn_active)

    mean_keys = (context + 1) / 2
    breakdown = {
        "mamba projections": 2.0 * n_mamba * mamba_matrices,
        "mamba convolution": 2.0 * n_mamba * c.d_conv * c.d_conv_channels,
        "mamba scan": 5.0 * n_mamba * inner * c.d_state,
        "attention projections": 2.0 * n_attention * attention_matrices,
        "attention scores": 4.0 * n_attention * d * mean_keys,
        "feed-forward": 2.0 * c.n_layers * (ffn_active - router),
        "router": 2.0 * c.n_layers * router,
        "head": 2.0 * c.vocab_size * d,
    }
    forward = sum(breakdown.values())
    grow = 4.0 * n_attention * d
    return Cost(
        context=context,
        params_total=total,
        params_embedding=embedding,
        params_non_embedding=layers,
        params_active=active,
        flops_forward=forward,
        flops_decode=forward + grow * (context + 1 - mean_keys),
        flops_train=3 * forward,
        state_floats_fixed=n_mamba * (inner * c.d_state + c.d_conv_channels * (c.d_conv - 1)),
        state_floats_per_token=2 * n_attention * kv,
        breakdown={name: value for name, value in breakdown.items() if value},
    )


def describe(name: str, config: ModelConfig, **more: Any) -> ModelDescription:
    """A model as result files describe it.

    Args:
        name: of its run, or of its checkpoint's folder.
        more: further fields of `ModelDescription`, where they are known.
    """
    return ModelDescription(
        name=name,
        family=config.family,
        size=preset_of(config.to_dict()),
        params=cost(config).params,
        config=config,
        **more,
    )
