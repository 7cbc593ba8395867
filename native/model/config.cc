#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "gguf/keys.h"

namespace itera {

namespace {

constexpr uint64_t kMaxContext = 65'536, kMaxWidth = 1 << 16, kMaxLayers = 1024;

[[noreturn]] void refuse(const std::string &what, const std::string &expected) {
    throw Error(what + ": expected " + expected);
}

struct Reader {
    const Gguf &file;
    std::string prefix;

    uint32_t number(const char *key, uint64_t low, uint64_t high) const {
        return within(key, file.need<uint64_t>(prefix + key), low, high);
    }
    uint32_t number_or(const char *key, uint64_t otherwise, uint64_t low, uint64_t high) const {
        return within(key, file.get<uint64_t>(prefix + key, otherwise), low, high);
    }
    uint32_t within(const char *key, uint64_t value, uint64_t low, uint64_t high) const {
        if (value < low || value > high)
            refuse(prefix + key + "=" + std::to_string(value),
                   std::to_string(low) + " to " + std::to_string(high));
        return uint32_t(value);
    }
    float positive(const char *key, double value, double high = 1e6) const {
        if (!(value > 0 && value <= high))  // NaN too
            refuse(prefix + key + "=" + std::to_string(value), "a positive number");
        return float(value);
    }
    // A scale as llama.cpp takes it: 0 means the same as no such key.
    float scale(const char *key, float otherwise) const {
        const double value = file.get<double>(prefix + key, 0);
        return value == 0 ? otherwise : positive(key, value);
    }
};

// The angle by which the rotation of each pair grows with each position.
void read_rope(const Reader &r, Config &c) {
    c.rope_dims = r.number_or("rope.dimension_count", c.head_dim, 2, c.head_dim);
    if (c.rope_dims % 2) refuse(r.prefix + "rope.dimension_count", "an even number");
    c.rope_base =
        r.positive("rope.freq_base", r.file.get<double>(r.prefix + "rope.freq_base", 1e4), 1e12);
    // As llama.cpp: without a type the scaling is linear, and type "none" leaves the factor out.
    const auto scaling = r.file.get<std::string_view>(r.prefix + "rope.scaling.type", "linear");
    if (scaling != "none" && scaling != "linear")
        refuse(r.prefix + "rope.scaling.type=" + quoted(scaling),
               "'none' or 'linear': this engine has no other rope scaling. Run it in llama.cpp");
    if (scaling == "linear")
        c.rope_factor = r.scale(r.file.has(r.prefix + "rope.scaling.factor") ? "rope.scaling.factor"
                                                                            : "rope.scale_linear",
                                1);
    for (uint32_t pair = 0; pair < c.rope_dims / 2; pair++)
        c.rope_frequencies.push_back(std::pow(double(c.rope_base), -2.0 * pair / c.rope_dims) /
                                     double(c.rope_factor));
    if (!r.file.find_tensor("rope_freqs.weight")) return;
    const Tensor &factors = r.file.tensor("rope_freqs.weight", {c.rope_dims / 2});
    if (factors.type != TensorType::F32) refuse("the type of 'rope_freqs.weight'", "F32");
    for (uint32_t pair = 0; pair < c.rope_dims / 2; pair++) {
        const auto factor = read_as<float>(factors.data.data() + 4 * pair);
        c.rope_frequencies[pair] /= double(r.positive("rope_freqs.weight", factor));
    }
}

void read_attention(const Reader &r, Config &c) {
    c.n_heads = r.number("attention.head_count", 1, c.d_model);
    const std::string kv_key = r.prefix + "attention.head_count_kv";
    const auto kv = r.file.has(kv_key) ? r.file.need_ints(kv_key)
                                       : std::vector<int64_t>{int64_t(c.n_heads)};
    if (kv.size() != 1 && kv.size() != c.n_layers)
        refuse(kv_key + " has " + std::to_string(kv.size()) + " numbers",
               "one, or one for each of " + std::to_string(c.n_layers) + " layers");
    for (uint32_t i = 0; i < c.n_layers; i++) {
        const int64_t n = kv[kv.size() == 1 ? 0 : i];
        const bool fits = n == 0 ? c.architecture == "granitehybrid"
                                 : n > 0 && n <= c.n_heads && c.n_heads % n == 0;
        if (!fits)
            refuse(kv_key + "=" + std::to_string(n),
                   "a divisor of head_count=" + std::to_string(c.n_heads));
        c.n_kv_heads.push_back(uint32_t(n));
    }
    const uint64_t otherwise = c.d_model / c.n_heads;
    c.head_dim = r.number_or("attention.key_length", otherwise, 1, 512);
    if (r.number_or("attention.value_length", c.head_dim, 1, 512) != c.head_dim)
        refuse(r.prefix + "attention.value_length", "the same as key_length");
    if (c.head_dim % 2) refuse("a head of " + std::to_string(c.head_dim), "an even width");
    c.attention_scale = float(1 / std::sqrt(double(c.head_dim)));
    if (c.architecture == "granitehybrid")
        c.attention_scale = r.scale("attention.scale", c.attention_scale);
    if (c.architecture == "llama" || r.file.get<bool>(r.prefix + "rope.scaling.finetuned", true))
        read_rope(r, c);
}

void read_mamba(const Reader &r, Config &c) {
    c.d_conv = r.number("ssm.conv_kernel", 2, 8);
    c.d_inner = r.number("ssm.inner_size", 1, 2 * kMaxWidth);
    c.d_state = r.number("ssm.state_size", 1, 4096);
    c.n_ssm_heads = r.number("ssm.time_step_rank", 1, c.d_inner);
    if (c.d_inner % c.n_ssm_heads)
        refuse(r.prefix + "ssm.time_step_rank=" + std::to_string(c.n_ssm_heads),
               "a divisor of ssm.inner_size=" + std::to_string(c.d_inner));
    if (c.d_inner / c.n_ssm_heads % 16)
        refuse("Mamba-2 heads of " + std::to_string(c.d_inner / c.n_ssm_heads) + " channels",
               "a multiple of 16");
    if (r.number_or("ssm.group_count", 1, 0, UINT32_MAX) != 1)
        refuse(r.prefix + "ssm.group_count", "1: other groupings differ between runtimes");
}

}  // namespace

Config read_config(const Gguf &file, uint32_t wanted_context, std::vector<std::string> &notes) {
    Config c;
    check_whole_model(file);
    c.architecture = file.need<std::string_view>("general.architecture");
    if (c.architecture != "granitehybrid" && c.architecture != "llama")
        refuse("general.architecture=" + quoted(c.architecture),
               "'granitehybrid' or 'llama'. Run other models in llama.cpp");
    check_architecture_keys(file, c.architecture, notes);
    const Reader r{file, c.architecture + "."};
    c.n_layers = r.number("block_count", 1, kMaxLayers);
    c.d_model = r.number("embedding_length", 1, kMaxWidth);
    if (c.d_model % 32) refuse(r.prefix + "embedding_length", "a multiple of 32");
    const Tensor *embedding = file.find_tensor("token_embd.weight");
    if (!embedding) throw Error("the tensor 'token_embd.weight' is missing");
    c.vocab_size = r.number_or("vocab_size", embedding->rows(), 1, 1 << 24);
    const uint64_t length = file.need<uint64_t>(r.prefix + "context_length");
    if (!length) refuse(r.prefix + "context_length=0", "1 or more");
    c.context = uint32_t(wanted_context ? wanted_context : std::min(length, kMaxContext));
    c.norm_eps = r.positive("attention.layer_norm_rms_epsilon",
                            file.need<double>(r.prefix + "attention.layer_norm_rms_epsilon"), 1);
    read_attention(r, c);
    if (std::ranges::find(c.n_kv_heads, 0u) != c.n_kv_heads.end()) read_mamba(r, c);
    c.n_experts = r.number_or("expert_count", 0, 0, 4096);
    if (c.n_experts) {
        c.top_k = r.number("expert_used_count", 1, c.n_experts);
        c.d_expert = r.number("feed_forward_length", 1, kMaxWidth);
        c.d_ff = r.number_or("expert_shared_feed_forward_length", 0, 0, kMaxWidth);
    } else {
        c.d_ff = r.number("feed_forward_length", 1, kMaxWidth);
    }
    if (c.architecture == "granitehybrid") {  // in a llama file llama.cpp leaves them out
        c.embedding_scale = r.scale("embedding_scale", 1);
        c.residual_scale = r.scale("residual_scale", 1);
        c.logit_scale = r.scale("logit_scale", 1);
    }
    return c;
}

}  // namespace itera
