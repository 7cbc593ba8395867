"""Models with random weights for the tests of this folder."""

import torch

from itera_lite.config import NAMES, PRESETS, ModelConfig, preset
from itera_lite.model import LanguageModel

VOCAB = 300
SIZES = [size for size, families in PRESETS.items() if set(families) == set(NAMES)]
ITERA = ModelConfig("itera", "ma", VOCAB, 64, n_experts=4, d_expert=32, d_ff=96, d_state=8)
TRANSFORMER = ModelConfig("transformer", "aa", VOCAB, 64, d_ff=96, head_dim=16, n_kv_heads=2)
GPT2 = ModelConfig("gpt2", "aa", VOCAB, 64, d_ff=96, n_kv_heads=2, max_seq_len=256)
SHAPES = [preset(family, size, VOCAB) for size in SIZES for family in NAMES] + [
    ModelConfig("itera", "mma", VOCAB, 64, n_experts=4, d_expert=32, d_ff=32, logits_scaling=2.0),
    ModelConfig("itera", "ma", VOCAB, 64, d_ff=96, d_conv=2, embedding_multiplier=3.0),
    ModelConfig("itera", "am", VOCAB, 64, d_ff=96, ssm_head_dim=16, residual_multiplier=0.5),
    ModelConfig("transformer", "aa", VOCAB, 64, d_ff=96, n_kv_heads=1, rope_theta=500.0),
]


def shape_name(config: ModelConfig) -> str:
    return f"{config.family}-{config.pattern}-{config.d_model}-{config.d_state}"


@torch.no_grad()
def random_model(config: ModelConfig, seed: int = 0) -> LanguageModel:
    """A model in which every weight matters: no zeros, no ones, and a router with opinions."""
    torch.manual_seed(seed)
    model = LanguageModel(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("norm.weight", "mixer.D")):
            parameter.normal_(1.0, 0.2)
        elif name == "embedding.weight" or name.endswith(("conv_bias", ".bias")):
            parameter.normal_(0.0, 0.1)
        elif parameter.ndim >= 2:
            parameter.normal_(0.0, parameter.shape[-1] ** -0.5)
    return model
