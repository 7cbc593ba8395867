#include "model/model.h"

#include <algorithm>
#include <bit>

#include "model/config.h"

namespace itera {

namespace {

constexpr size_t kMostNotes = 16;

size_t plan(const Gguf &file) {
    size_t total = 0;
    for (const Tensor &tensor : file.tensors()) total += packed_bytes(tensor) + 256;
    return total;
}

uint64_t mix(uint64_t hash, uint64_t value) {  // FNV-1a, eight bytes at a time
    return (hash ^ value) * 0x100000001b3;
}

}  // namespace

Model Model::load(const std::string &path, const LoadOptions &options) {
    return naming(path, [&] { return Model(Gguf::open(path), options); });
}

Model Model::from_memory(std::span<const std::byte> bytes, const LoadOptions &options) {
    return Model(Gguf::from_memory(bytes), options);
}

Model::Model(const Gguf &file, const LoadOptions &options)
    : config(read_config(file, options.context, notes)), sampling(read_sampling(file, notes)),
      tokenizer(file), kernels(itera::kernels()), arena_(plan(file)) {
    const Config &c = config;
    name = file.string_or("general.name", "");
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
    fingerprint = 0xcbf29ce484222325;
    for (const uint32_t number : {c.d_model, c.n_heads, c.head_dim, c.rope_dims, c.top_k,
                                  c.d_conv, c.d_inner, c.d_state, c.n_ssm_heads})
        fingerprint = mix(fingerprint, number);
    for (const float number : {c.norm_eps, c.attention_scale, c.rope_base, c.embedding_scale,
                               c.residual_scale, c.logit_scale})
        fingerprint = mix(fingerprint, std::bit_cast<uint32_t>(number));
    if (c.rope_factor != 1)
        fingerprint = mix(fingerprint, std::bit_cast<uint32_t>(c.rope_factor));
    for (const Tensor &tensor : file.tensors()) {
        uint64_t n = 1;
        for (const uint64_t size : tensor.shape) n *= size;
        parameters += n;
        if (tensor.type == TensorType::Q8_0 || tensor.type == TensorType::Q4_0)
            cache8 = c.head_dim % kLanes == 0;
        fingerprint = mix(mix(fingerprint, n), uint64_t(tensor.type));
        for (const char letter : tensor.name) fingerprint = mix(fingerprint, uint8_t(letter));
        // A few bytes of each tensor tell two trainings of one shape apart.
        for (size_t i = 0; i < 64 && i < tensor.data.size(); i++)
            fingerprint = mix(fingerprint, uint64_t(tensor.data[i]));
    }
    layers.reserve(c.n_layers);
    for (uint32_t i = 0; i < c.n_layers; i++) {
        const std::string prefix = "blk." + std::to_string(i) + ".";
        Layer &layer = layers.emplace_back();
        layer.n_kv_heads = c.n_kv_heads[i];
        layer.mixer_norm = floats(file, prefix + "attn_norm.weight", {c.d_model});
        if (layer.n_kv_heads)
            load_attention(file, prefix, layer);
        else
            load_mamba(file, prefix, layer);
        layer.ffn_norm = floats(file, prefix + "ffn_norm.weight", {c.d_model});
        load_feed_forward(file, prefix, layer);
    }
    norm = floats(file, "output_norm.weight", {c.d_model});
    embedding = matrix(file, "token_embd.weight", c.vocab_size, c.d_model);
    head = file.find("output.weight") ? matrix(file, "output.weight", c.vocab_size, c.d_model)
                                      : embedding;
    if (const Tensor *tensor = file.first_unused())
        throw Error("tensor " + quoted(tensor->name) + " has no place in a " + c.architecture +
                    " model of this engine, which would compute something else without it; "
                    "expected the tensors that docs/export.md lists: make the file with `itera "
                    "export`, or run this one in a program that knows the tensor");
}

void Model::load_mamba(const Gguf &file, const std::string &prefix, Layer &layer) {
    const Config &c = config;
    const uint64_t width = c.d_inner, channels = c.conv_channels();
    layer.in = matrix(file, prefix + "ssm_in.weight", width + channels + c.n_ssm_heads, c.d_model);
    // [channels, taps] in the file; a row a tap is what the kernel reads.
    const Tensor &taps = file.need(prefix + "ssm_conv1d.weight", {channels, c.d_conv});
    const float *by_channel = pack_floats(taps, arena_);
    auto *by_tap = reinterpret_cast<float *>(arena_.take(channels * c.d_conv * 4 + 64));
    for (uint64_t i = 0; i < channels; i++)
        for (uint32_t k = 0; k < c.d_conv; k++)
            by_tap[k * channels + i] = by_channel[i * c.d_conv + k];
    layer.conv = by_tap;
    layer.conv_bias = floats(file, prefix + "ssm_conv1d.bias", {channels});
    layer.dt_bias = floats(file, prefix + "ssm_dt.bias", {c.n_ssm_heads});
    layer.a = floats(file, prefix + "ssm_a", {c.n_ssm_heads, 1});
    layer.d = floats(file, prefix + "ssm_d", {c.n_ssm_heads, 1});
    layer.ssm_norm = floats(file, prefix + "ssm_norm.weight", {1, width});
    layer.out = matrix(file, prefix + "ssm_out.weight", c.d_model, width);
}

void Model::load_attention(const Gguf &file, const std::string &prefix, Layer &layer) {
    const Config &c = config;
    const uint64_t q = uint64_t(c.n_heads) * c.head_dim;
    const uint64_t kv = uint64_t(layer.n_kv_heads) * c.head_dim;
    layer.q = matrix(file, prefix + "attn_q.weight", q, c.d_model);
    layer.k = matrix(file, prefix + "attn_k.weight", kv, c.d_model);
    layer.v = matrix(file, prefix + "attn_v.weight", kv, c.d_model);
    layer.o = matrix(file, prefix + "attn_output.weight", c.d_model, q);
    layer.q_bias = bias(file, prefix + "attn_q.bias", q);
    layer.k_bias = bias(file, prefix + "attn_k.bias", kv);
    layer.v_bias = bias(file, prefix + "attn_v.bias", kv);
    layer.o_bias = bias(file, prefix + "attn_output.bias", c.d_model);
}

void Model::load_feed_forward(const Gguf &file, const std::string &prefix, Layer &layer) {
    const Config &c = config;
    if (c.n_experts) {
        const uint64_t e = c.n_experts, f = c.d_expert;
        layer.router = matrix(file, prefix + "ffn_gate_inp.weight", e, c.d_model);
        const Tensor &gate = file.need(prefix + "ffn_gate_exps.weight", {e, f, c.d_model});
        const Tensor &up = file.need(prefix + "ffn_up_exps.weight", {e, f, c.d_model});
        layer.experts_in = pack_pair(gate, up, arena_, kernels, c.d_expert);
        const Tensor &down = file.need(prefix + "ffn_down_exps.weight", {e, c.d_model, f});
        layer.experts_out = pack(down, arena_, kernels, c.d_model);
        for (const Tensor *used : {&gate, &up, &down}) file.release(*used);
    }
    if (c.d_ff) {
        const std::string end = c.n_experts ? "_shexp.weight" : ".weight";
        const Tensor &gate = file.need(prefix + "ffn_gate" + end, {c.d_ff, c.d_model});
        const Tensor &up = file.need(prefix + "ffn_up" + end, {c.d_ff, c.d_model});
        layer.ffn_in = pack_pair(gate, up, arena_, kernels, c.d_ff);
        file.release(gate);
        file.release(up);
        layer.ffn_out = matrix(file, prefix + "ffn_down" + end, c.d_model, c.d_ff);
    }
    if (!c.n_experts) {  // llama.cpp knows none beside experts
        layer.gate_bias = bias(file, prefix + "ffn_gate.bias", c.d_ff);
        layer.up_bias = bias(file, prefix + "ffn_up.bias", c.d_ff);
        layer.down_bias = bias(file, prefix + "ffn_down.bias", c.d_model);
    }
}

Matrix Model::matrix(const Gguf &file, const std::string &tensor_name, uint64_t rows,
                     uint64_t columns) {
    const Tensor &tensor = file.need(tensor_name, {rows, columns});
    const Matrix packed = pack(tensor, arena_, kernels);
    file.release(tensor);
    return packed;
}

const float *Model::floats(const Gguf &file, const std::string &tensor_name,
                           std::initializer_list<uint64_t> shape) {
    return pack_floats(file.need(tensor_name, shape), arena_);
}

const float *Model::bias(const Gguf &file, const std::string &tensor_name, uint64_t size) {
    return file.find(tensor_name) ? floats(file, tensor_name, {size}) : nullptr;
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
