// The shape of a model, from a file's metadata.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gguf/gguf.h"

namespace itera {

struct Config {
    std::string architecture;  // "granitehybrid" or "llama"
    uint32_t n_layers, d_model, vocab_size;
    uint32_t context;  // tokens that a state has room for
    uint32_t n_heads, head_dim, rope_dims = 0;  // 0 rope_dims: no positions
    std::vector<uint32_t> n_kv_heads;           // of each layer; 0: a Mamba-2 layer
    uint32_t d_ff = 0;                          // dense feed-forward, or the shared expert
    uint32_t n_experts = 0, top_k = 0, d_expert = 0;
    uint32_t d_conv = 0, d_inner = 0, d_state = 0, n_ssm_heads = 0;
    float norm_eps, attention_scale, rope_base = 10000.0f, rope_factor = 1;
    std::vector<double> rope_frequencies;  // of each pair, in radians a position
    float embedding_scale = 1, residual_scale = 1, logit_scale = 1;

    uint32_t ssm_head_dim() const { return d_inner / n_ssm_heads; }
    uint32_t conv_channels() const { return d_inner + 2 * d_state; }
};

// Reads and checks the shape. `wanted_context` 0 takes the file's own, at most 65,536. `notes` gets
// a line for each key that is left out.
Config read_config(const Gguf &file, uint32_t wanted_context, std::vector<std::string> &notes);

}  // namespace itera
