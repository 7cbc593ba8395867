#include "model/model.h"

#include <algorithm>
#include <bit>

#include "model/pack.h"
#include "text/hash.h"
#include "text/sampling_defaults.h"

namespace itera {

namespace {

constexpr size_t kMostNotes = 16;

// Bytes that the weights take at most once they are packed.
uint64_t plan(const Gguf &file) {
    uint64_t total = 0;
    for (const Tensor &tensor : file.tensors()) total += packed_bytes(tensor) + 256;
    return total;
}

// Tells models apart: of their shapes, and of a few bytes of each tensor, which differ between two
// trainings of one shape.
uint64_t fingerprint_of(const Config &c, const Gguf &file) {
    uint64_t hash = kFnvStart;
    for (const uint32_t number : {c.d_model, c.n_heads, c.head_dim, c.rope_dims, c.top_k,
                                  c.d_conv, c.d_inner, c.d_state, c.n_ssm_heads})
        hash = fnv1a(hash, number);
    for (const float number : {c.norm_eps, c.attention_scale, c.rope_base, c.embedding_scale,
                               c.residual_scale, c.logit_scale})
        hash = fnv1a(hash, std::bit_cast<uint32_t>(number));
    if (c.rope_factor != 1) hash = fnv1a(hash, std::bit_cast<uint32_t>(c.rope_factor));
    for (const Tensor &tensor : file.tensors()) {
        hash = fnv1a(fnv1a(hash, tensor.numbers()), uint64_t(tensor.type));
        for (const char letter : tensor.name) hash = fnv1a(hash, uint8_t(letter));
        for (size_t i = 0; i < 64 && i < tensor.data.size(); i++)
            hash = fnv1a(hash, uint64_t(tensor.data[i]));
    }
    return hash;
}

// Packs the tensors whose names begin with `prefix`.
struct Loader {
    const Gguf &file;
    Arena &arena;
    const Kernels &kernels;
    std::string prefix;

    Matrix matrix(std::initializer_list<const char *> names, std::initializer_list<uint64_t> shape,
                  uint32_t stack = 0) const {
        std::vector<const Tensor *> tensors;
        for (const char *name : names) tensors.push_back(&file.tensor(prefix + name, shape));
        const Matrix packed = pack(tensors, arena, kernels, stack);
        for (const Tensor *tensor : tensors) file.release(*tensor);
        return packed;
    }
    const float *floats(const char *name, std::initializer_list<uint64_t> shape) const {
        return pack_floats(file.tensor(prefix + name, shape), arena);
    }
    const float *bias(const char *name, uint64_t size) const {  // null where the file has none
        return file.find_tensor(prefix + name) ? floats(name, {size}) : nullptr;
    }
};

void load_mamba(const Loader &from, const Config &c, Layer &layer) {
    const uint64_t width = c.d_inner, channels = c.conv_channels();
    layer.in = from.matrix({"ssm_in.weight"}, {width + channels + c.n_ssm_heads, c.d_model});
    // [channels, taps] in the file; the kernel reads a row a tap.
    const float *by_channel = from.floats("ssm_conv1d.weight", {channels, c.d_conv});
    auto *by_tap = from.arena.take<float>(channels * c.d_conv + 16);
    for (uint64_t i = 0; i < channels; i++)
        for (uint32_t k = 0; k < c.d_conv; k++)
            by_tap[k * channels + i] = by_channel[i * c.d_conv + k];
    layer.conv = by_tap;
    layer.conv_bias = from.floats("ssm_conv1d.bias", {channels});
    layer.dt_bias = from.floats("ssm_dt.bias", {c.n_ssm_heads});
    layer.a = from.floats("ssm_a", {c.n_ssm_heads, 1});
    layer.d = from.floats("ssm_d", {c.n_ssm_heads, 1});
    layer.ssm_norm = from.floats("ssm_norm.weight", {1, width});
    layer.out = from.matrix({"ssm_out.weight"}, {c.d_model, width});
}

void load_attention(const Loader &from, const Config &c, Layer &layer) {
    const uint64_t q = uint64_t(c.n_heads) * c.head_dim;
    const uint64_t kv = uint64_t(layer.n_kv_heads) * c.head_dim;
    layer.q = from.matrix({"attn_q.weight"}, {q, c.d_model});
    layer.k = from.matrix({"attn_k.weight"}, {kv, c.d_model});
    layer.v = from.matrix({"attn_v.weight"}, {kv, c.d_model});
    layer.o = from.matrix({"attn_output.weight"}, {c.d_model, q});
    layer.q_bias = from.bias("attn_q.bias", q);
    layer.k_bias = from.bias("attn_k.bias", kv);
    layer.v_bias = from.bias("attn_v.bias", kv);
    layer.o_bias = from.bias("attn_output.bias", c.d_model);
}

void load_feed_forward(const Loader &from, const Config &c, Layer &layer) {
    if (c.n_experts) {
        const uint64_t e = c.n_experts, f = c.d_expert;
        layer.router = from.matrix({"ffn_gate_inp.weight"}, {e, c.d_model});
        layer.experts_in = from.matrix({"ffn_gate_exps.weight", "ffn_up_exps.weight"},
                                       {e, f, c.d_model}, c.d_expert);
        layer.experts_out = from.matrix({"ffn_down_exps.weight"}, {e, c.d_model, f}, c.d_model);
        if (!c.d_ff) return;
        layer.ffn_in = from.matrix({"ffn_gate_shexp.weight", "ffn_up_shexp.weight"},
                                   {c.d_ff, c.d_model}, c.d_ff);
        layer.ffn_out = from.matrix({"ffn_down_shexp.weight"}, {c.d_model, c.d_ff});
        return;  // llama.cpp knows no biases beside experts
    }
    layer.ffn_in = from.matrix({"ffn_gate.weight", "ffn_up.weight"}, {c.d_ff, c.d_model}, c.d_ff);
    layer.ffn_out = from.matrix({"ffn_down.weight"}, {c.d_model, c.d_ff});
    layer.gate_bias = from.bias("ffn_gate.bias", c.d_ff);
    layer.up_bias = from.bias("ffn_up.bias", c.d_ff);
    layer.down_bias = from.bias("ffn_down.bias", c.d_model);
}

}  // namespace

Model Model::load(const std::string &path, uint32_t context) {
    return naming(path, [&] { return Model(Gguf(path), context); });
}

Model::Model(const Gguf &file, uint32_t context)
    : config(read_config(file, context, notes)), sampling(read_sampling(file, notes)),
      tokenizer(file), kernels(itera::kernels()), arena_(plan(file)) {
    const Config &c = config;
    name = file.get<std::string_view>("general.name", "");
    unit = file.get<std::string_view>("itera.unit", "");
    file_bytes = file.file_size();
    if (notes.size() > kMostNotes) {
        const std::string rest = std::to_string(notes.size() - kMostNotes);
        notes.resize(kMostNotes);
        notes.push_back(rest + " more keys are left out");
    }
    sampling.repetition_window = std::min(sampling.repetition_window, int32_t(config.context));
    if (tokenizer.size() != int64_t(c.vocab_size))
        throw Error("the tokenizer has " + std::to_string(tokenizer.size()) +
                    " tokens, the model " + std::to_string(c.vocab_size) +
                    ": they don't belong together");
    fingerprint = fingerprint_of(c, file);
    bool any_quantized = false;
    for (const Tensor &tensor : file.tensors()) {
        parameters += tensor.numbers();
        any_quantized |= is_quantized(tensor.type);
    }
    cache8 = any_quantized && c.head_dim % kLanes == 0;
    layers.reserve(c.n_layers);
    for (uint32_t i = 0; i < c.n_layers; i++) {
        const Loader from{file, arena_, kernels, "blk." + std::to_string(i) + "."};
        Layer &layer = layers.emplace_back();
        layer.n_kv_heads = c.n_kv_heads[i];
        layer.mixer_norm = from.floats("attn_norm.weight", {c.d_model});
        if (layer.n_kv_heads)
            load_attention(from, c, layer);
        else
            load_mamba(from, c, layer);
        layer.ffn_norm = from.floats("ffn_norm.weight", {c.d_model});
        load_feed_forward(from, c, layer);
    }
    const Loader from{file, arena_, kernels, ""};
    norm = from.floats("output_norm.weight", {c.d_model});
    embedding = from.matrix({"token_embd.weight"}, {c.vocab_size, c.d_model});
    head = file.find_tensor("output.weight")
               ? from.matrix({"output.weight"}, {c.vocab_size, c.d_model})
               : embedding;
    if (const Tensor *tensor = file.first_unused())
        throw Error("tensor " + quoted(tensor->name) + " has no place in a " + c.architecture +
                    " model of this engine, which would compute something else without it; "
                    "expected the tensors that docs/export.md lists: make the file with `itera "
                    "export`, or run this one in a program that knows the tensor");
}

uint64_t Model::weight_bytes_per_token() const {
    const auto size = [](const Matrix &m) { return m.groups() * m.group_bytes; };
    uint64_t total = size(head) + 4 * config.d_model;
    for (const Layer &l : layers) {
        total += 8 * config.d_model;
        if (l.n_kv_heads)
            total += size(l.q) + size(l.k) + size(l.v) + size(l.o);
        else
            total += size(l.in) + size(l.out) + 4 * config.conv_channels() * (config.d_conv + 1) +
                     4 * config.d_inner;
        if (config.n_experts)
            total += size(l.router) +
                     (size(l.experts_in) + size(l.experts_out)) / config.n_experts * config.top_k;
        if (config.d_ff) total += size(l.ffn_in) + size(l.ffn_out);
    }
    return total;
}

uint64_t Model::state_bytes_per_token(uint64_t length) const {
    uint64_t total = 0;
    const Config &c = config;
    const uint64_t of_position = cache8 ? c.head_dim + 4 : 4 * c.head_dim;  // a key, or a value
    for (const Layer &l : layers) {
        if (l.n_kv_heads)
            total += 2 * length * l.n_kv_heads * of_position;
        else
            total += 4 * (2 * c.d_inner * c.d_state + c.conv_channels() * c.d_conv);
    }
    return total;
}

}  // namespace itera
