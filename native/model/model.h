// A model as the engine runs it: its shape, its weights repacked, its tokenizer.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/pack.h"
#include "text/sampling_defaults.h"
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

struct LoadOptions {
    uint32_t context = 0;  // 0: the file's own, at most 65,536
};

class Model {
  public:
    // Throws `Error`, which names the file, where it can't be read, isn't valid or is of another
    // kind.
    static Model load(const std::string &path, const LoadOptions &options = {});
    // The same over bytes, as `Gguf::from_memory` takes them (fuzzing).
    static Model from_memory(std::span<const std::byte> bytes, const LoadOptions &options = {});

    std::vector<std::string> notes;  // what of the file is left out, a line each
    Config config;
    SamplingDefaults sampling;
    std::string name;         // general.name
    Tokenizer tokenizer;
    const Kernels &kernels;
    Matrix embedding, head;   // the same matrix where the embeddings are tied
    std::vector<Layer> layers;
    const float *norm = nullptr;
    bool cache8 = false;  // attention remembers in 8 bits, as a file with quantised weights asks
    uint64_t file_bytes = 0;
    uint64_t parameters = 0;
    uint64_t fingerprint = 0;  // of shape and file, so that a state finds its model

    // Bytes of weights that one decoded token reads, and of its state at `length` tokens.
    uint64_t weight_bytes_per_token() const;
    uint64_t state_bytes_per_token(uint64_t length) const;

  private:
    Model(const Gguf &file, const LoadOptions &options);
    void load_mamba(const Gguf &file, const std::string &prefix, Layer &layer);
    void load_attention(const Gguf &file, const std::string &prefix, Layer &layer);
    void load_feed_forward(const Gguf &file, const std::string &prefix, Layer &layer);
    Matrix matrix(const Gguf &file, const std::string &name, uint64_t rows, uint64_t columns);
    const float *floats(const Gguf &file, const std::string &name,
                        std::initializer_list<uint64_t> shape);
    const float *bias(const Gguf &file, const std::string &name, uint64_t size);  // or null
    Arena arena_;
};

}  // namespace itera
