// A loaded model: its shape, its weights repacked for the kernels, its tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gguf/gguf.h"
#include "kernels/kernels.h"
#include "model/arena.h"
#include "model/config.h"
#include "text/sampler.h"
#include "text/tokenizer.h"

namespace itera {

struct Layer {
    uint32_t n_kv_heads;  // 0: Mamba-2
    const float *mixer_norm, *ffn_norm;
    Matrix in, out;  // Mamba-2
    const float *conv, *conv_bias, *dt_bias, *a, *d, *ssm_norm;
    Matrix q, k, v, o;           // attention
    Matrix router, experts_in, experts_out;  // experts_in: gate and up of each expert
    Matrix ffn_in, ffn_out;      // dense, or shared expert; ffn_in: gate and up
    // Null where the file has none.
    const float *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr, *o_bias = nullptr;
    const float *gate_bias = nullptr, *up_bias = nullptr, *down_bias = nullptr;
};

class Model {
  public:
    // A context of 0 is the file's own, at most 65,536 tokens. Throws `Error`, which names the
    // file, where it can't be read, isn't valid or is of another kind.
    static Model load(const std::string &path, uint32_t context = 0);
    explicit Model(const Gguf &file, uint32_t context = 0);

    std::vector<std::string> notes;  // a line for each key of the file that is left out
    Config config;
    SamplerOptions sampling;  // as the file advises
    std::string name;         // general.name
    std::string unit;         // itera.unit: of the text that it was trained on; empty: not known
    Tokenizer tokenizer;
    const Kernels &kernels;
    Matrix embedding, head;   // the same matrix where the embeddings are tied
    std::vector<Layer> layers;
    const float *norm = nullptr;
    bool cache8 = false;  // keys and values in 8 bits, where the file has quantised weights
    uint64_t file_bytes = 0;
    uint64_t parameters = 0;
    uint64_t fingerprint = 0;  // a saved state has it too, and fits no other model

    // Bytes of weights that one decoded token reads, and of its state at `length` tokens.
    uint64_t weight_bytes_per_token() const;
    uint64_t state_bytes_per_token(uint64_t length) const;

  private:
    Arena arena_;
};

}  // namespace itera
