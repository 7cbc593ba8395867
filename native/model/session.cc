#include "model/session.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace itera {

namespace {

constexpr size_t align(size_t n, size_t to) { return (n + to - 1) / to * to; }

// Adds the bias, where there is one, to `width` floats of each of `n` rows.
void add_bias(const float *bias, size_t width, float *x, size_t stride, uint32_t n) {
    if (!bias) return;
    for (uint32_t i = 0; i < n; i++)
        for (size_t j = 0; j < width; j++) x[i * stride + j] += bias[j];
}

}  // namespace

Session::Session(const Model &model, uint32_t max_rows, const Kernels *kernels)
    : model_(model), k_(kernels ? *kernels : model.kernels), max_rows_(max_rows),
      positions_(max_rows) {
    layout();  // counts
    arena_ = Arena(std::exchange(arena_, Arena()).used());
    layout();  // takes
}

void Session::layout() {
    const Config &c = model_.config;
    const size_t rows = max_rows_, choices = std::max<size_t>(1, c.top_k);
    size_t wide = c.d_model, kv = 0;
    for (const Layer &l : model_.layers) {
        wide = std::max<size_t>(wide, l.in.padded_rows());
        kv = std::max<size_t>(kv, size_t(l.n_kv_heads) * c.head_dim);
    }
    const size_t q = size_t(c.n_heads) * c.head_dim;
    const size_t inner = std::max(align(c.d_expert, kLanes), align(c.d_ff, kLanes));
    const auto floats = [this](size_t n) { return reinterpret_cast<float *>(arena_.take(4 * n)); };
    const auto ints = [this](size_t n) { return reinterpret_cast<uint32_t *>(arena_.take(4 * n)); };
    stream_ = buffer(c.d_model, rows);
    normed_ = buffer(c.d_model, rows);
    added_ = buffer(c.d_model, rows);
    wide_ = buffer(wide, rows * choices);
    mixed_ = buffer(std::max<size_t>(q, c.d_inner), rows);
    hidden_ = buffer(2 * inner, rows * choices);
    gated_ = buffer(inner, rows * choices);
    queries_ = buffer(q, rows);
    keys_ = buffer(kv, rows);
    values_ = buffer(kv, rows);
    head_stride_ = align(c.vocab_size, kLanes);
    logits_ = floats(kLogitRows * head_stride_);
    conv_ = floats(c.d_inner ? c.conv_channels() : 0);
    scores_ = floats(model_.cache8 ? 0 : align(c.context, kLanes));
    router_ = floats(rows * align(c.n_experts, kLanes));
    weights_ = floats(rows * c.top_k);
    chosen_ = ints(rows * c.top_k);
    members_ = ints(rows * c.top_k);
    slots_ = ints(rows * c.top_k);
    starts_ = ints(c.n_experts + 1);
    cosines_ = floats(rows * c.rope_dims);
    sines_ = floats(rows * c.rope_dims);
}

Session::Buffer Session::buffer(size_t width, size_t rows) {
    Buffer b;
    b.width = align(width, kBlock);
    b.x = reinterpret_cast<float *>(arena_.take(4 * b.width * rows));
    b.q = reinterpret_cast<int8_t *>(arena_.take(b.width * rows));
    b.scales = reinterpret_cast<float *>(arena_.take(b.width / kBlock * rows * 4));
    b.sums = reinterpret_cast<int32_t *>(arena_.take(b.width / kBlock * rows * 4));
    return b;
}

// The rows of a buffer as input of a product, in 8 bits too where the matrix is quantised.
Rows Session::input(const Buffer &b, uint32_t n, bool quantize, uint32_t first) {
    const size_t from = first * b.width, block = from / kBlock;
    if (quantize)
        k_.quantize(b.x + from, n * b.width, b.q + from, b.scales + block, b.sums + block);
    return {b.x + from, b.width, b.q + from, b.scales + block, b.sums + block, nullptr, n};
}

// Checks the rows and finds each one's position in its text.
void Session::place(std::span<const Row> rows) {
    const uint32_t vocab = model_.config.vocab_size;
    if (rows.size() > max_rows_)
        throw UsageError(std::to_string(rows.size()) +
                         " rows in one pass: this session has room for " +
                         std::to_string(max_rows_));
    for (uint32_t i = 0; i < rows.size(); i++) {
        if (rows[i].token < 0 || uint32_t(rows[i].token) >= vocab)
            throw UsageError("token " + std::to_string(rows[i].token) + ": expected 0 to " +
                             std::to_string(vocab - 1));
        uint32_t position = rows[i].state->length();
        for (uint32_t j = i; j-- > 0;)
            if (rows[j].state == rows[i].state) {
                position = positions_[j] + 1;
                break;
            }
        if (position >= rows[i].state->context())
            throw UsageError("the text is longer than the " +
                             std::to_string(rows[i].state->context()) +
                             " tokens that this model reads; load it with a larger context");
        positions_[i] = position;
    }
}

// The rows' embeddings to the residual stream, and the angles of their positions.
void Session::embed(std::span<const Row> rows) {
    const Config &c = model_.config;
    for (uint32_t i = 0; i < rows.size(); i++) {
        float *x = stream_.x + i * stream_.width;
        unpack_row(model_.embedding, uint32_t(rows[i].token), k_.flip, x);
        if (c.embedding_scale != 1)
            for (uint32_t d = 0; d < c.d_model; d++) x[d] *= c.embedding_scale;
        for (uint32_t p = 0; p < c.rope_dims / 2; p++) {
            const double angle = positions_[i] * c.rope_frequencies[p];
            cosines_[i * c.rope_dims + p] = float(std::cos(angle));
            sines_[i * c.rope_dims + p] = float(std::sin(angle));
        }
    }
}

void Session::forward(std::span<const Row> rows) {
    const Config &c = model_.config;
    const auto n = uint32_t(rows.size());
    place(rows);
    embed(rows);
    bool has_added = false;
    const auto norm = [&](const float *weight) {
        for (uint32_t i = 0; i < n; i++)
            k_.add_norm(stream_.x + i * stream_.width,
                        has_added ? added_.x + i * added_.width : nullptr, c.residual_scale,
                        weight, c.norm_eps, c.d_model, normed_.x + i * normed_.width);
        has_added = true;
    };
    for (size_t l = 0; l < model_.layers.size(); l++) {
        const Layer &layer = model_.layers[l];
        norm(layer.mixer_norm);
        if (layer.n_kv_heads)
            attention(layer, l, rows);
        else
            mamba(layer, l, rows);
        norm(layer.ffn_norm);
        feed_forward(layer, n);
    }
    norm(model_.norm);
    for (const Row &row : rows) row.state->advance();
}

float *Session::logits(uint32_t first, uint32_t n) {
    k_.matmul(model_.head, input(normed_, n, model_.head.quantized(), first), logits_,
              head_stride_);
    if (const float scale = model_.config.logit_scale; scale != 1)
        for (size_t i = 0; i < n * head_stride_; i++) logits_[i] /= scale;
    return logits_;
}

void Session::mamba(const Layer &layer, size_t number, std::span<const Row> rows) {
    const Config &c = model_.config;
    const auto n = uint32_t(rows.size());
    const uint32_t channels = c.conv_channels(), before = c.d_conv - 1;
    k_.matmul(layer.in, input(normed_, n, layer.in.quantized()), wide_.x, wide_.width);
    for (uint32_t i = 0; i < n; i++) {
        const float *z = wide_.x + i * wide_.width, *xbc = z + c.d_inner;
        float *ring = rows[i].state->window(number);  // the last inputs, the oldest overwritten
        const float *window[8];
        for (uint32_t k = 0; k < before; k++)
            window[k] = ring + (positions_[i] + k) % before * channels;
        window[before] = xbc;
        k_.convolve(window, layer.conv, layer.conv_bias, c.d_conv, channels, conv_);
        std::copy_n(xbc, channels, ring + positions_[i] % before * channels);
        k_.ssm_step(z, conv_, conv_ + c.d_inner, conv_ + c.d_inner + c.d_state, xbc + channels,
                    layer.dt_bias, layer.a, layer.d, layer.ssm_norm, c.norm_eps, c.n_ssm_heads,
                    c.ssm_head_dim(), c.d_state, rows[i].state->ssm(number),
                    mixed_.x + i * mixed_.width);
    }
    k_.matmul(layer.out, input(mixed_, n, layer.out.quantized()), added_.x, added_.width);
}

void Session::attention(const Layer &layer, size_t number, std::span<const Row> rows) {
    const Config &c = model_.config;
    const auto n = uint32_t(rows.size());
    const bool any = layer.q.quantized() || layer.k.quantized() || layer.v.quantized();
    const Rows x = input(normed_, n, any);
    k_.matmul(layer.q, x, queries_.x, queries_.width);
    k_.matmul(layer.k, x, keys_.x, keys_.width);
    k_.matmul(layer.v, x, values_.x, values_.width);
    const size_t q_width = size_t(c.n_heads) * c.head_dim;
    const size_t kv_width = size_t(layer.n_kv_heads) * c.head_dim;
    add_bias(layer.q_bias, q_width, queries_.x, queries_.width, n);
    add_bias(layer.k_bias, kv_width, keys_.x, keys_.width, n);
    add_bias(layer.v_bias, kv_width, values_.x, values_.width, n);
    const uint32_t group = c.n_heads / layer.n_kv_heads;
    for (uint32_t i = 0; i < n; i++) {
        float *q = queries_.x + i * queries_.width, *k = keys_.x + i * keys_.width;
        if (c.rope_dims) {
            const float *cosines = cosines_ + i * c.rope_dims, *sines = sines_ + i * c.rope_dims;
            for (uint32_t h = 0; h < c.n_heads; h++)
                k_.rotate(q + h * c.head_dim, cosines, sines, c.rope_dims);
            for (uint32_t h = 0; h < layer.n_kv_heads; h++)
                k_.rotate(k + h * c.head_dim, cosines, sines, c.rope_dims);
        }
        for (uint32_t h = 0; h < layer.n_kv_heads; h++) {
            const float *key = k + h * c.head_dim;
            const float *value = values_.x + i * values_.width + h * c.head_dim;
            const float *query = q + size_t(h) * group * c.head_dim;
            float *out = mixed_.x + i * mixed_.width + size_t(h) * group * c.head_dim;
            const size_t at = positions_[i];
            if (model_.cache8) {
                const Cache8 cache = rows[i].state->cache8(number, h);
                k_.store8(cache, at, key, value, c.head_dim);
                k_.attend8(query, cache, group, c.head_dim, at + 1, c.attention_scale, out);
            } else {
                float *keys = rows[i].state->keys(number, h);
                float *values = rows[i].state->values(number, h);
                const size_t width = align(c.head_dim, kLanes);
                std::copy_n(key, c.head_dim, keys + at * width);
                std::copy_n(value, c.head_dim, values + at * width);
                k_.attend(query, keys, values, group, c.head_dim, at + 1, c.attention_scale,
                          scores_, out);
            }
        }
    }
    k_.matmul(layer.o, input(mixed_, n, layer.o.quantized()), added_.x, added_.width);
    add_bias(layer.o_bias, c.d_model, added_.x, added_.width, n);
}

void Session::feed_forward(const Layer &layer, uint32_t n) {
    const Config &c = model_.config;
    std::fill_n(added_.x, n * added_.width, 0.0f);
    if (c.n_experts) experts(layer, n);
    if (!c.d_ff) return;
    const size_t padded = align(c.d_ff, kLanes);
    k_.matmul(layer.ffn_in, input(normed_, n, layer.ffn_in.quantized()), hidden_.x, hidden_.width);
    add_bias(layer.gate_bias, c.d_ff, hidden_.x, hidden_.width, n);
    add_bias(layer.up_bias, c.d_ff, hidden_.x + padded, hidden_.width, n);
    for (uint32_t i = 0; i < n; i++) {
        const float *gate = hidden_.x + i * hidden_.width;
        k_.gated_silu(gate, gate + padded, c.d_ff, gated_.x + i * gated_.width);
    }
    // Not to `added_` at once: what the experts gave is there already.
    k_.matmul(layer.ffn_out, input(gated_, n, layer.ffn_out.quantized()), wide_.x, wide_.width);
    add_bias(layer.down_bias, c.d_model, wide_.x, wide_.width, n);
    for (uint32_t i = 0; i < n; i++)
        k_.axpy(1.0f, wide_.x + i * wide_.width, c.d_model, added_.x + i * added_.width);
}

void Session::experts(const Layer &layer, uint32_t n) {
    const Config &c = model_.config;
    const uint32_t k = c.top_k, stride = uint32_t(align(c.n_experts, kLanes));
    const uint32_t padded = uint32_t(align(c.d_expert, kLanes));
    const uint32_t in_groups = 2 * padded / kLanes, out_groups = c.d_model / kLanes;
    const bool quantized = layer.experts_in.quantized() || layer.router.quantized();
    Rows x = input(normed_, n, quantized);
    k_.matmul(layer.router, x, router_, stride);
    for (uint32_t i = 0; i < n; i++)
        k_.route(router_ + size_t(i) * stride, c.n_experts, k, chosen_ + size_t(i) * k,
                 weights_ + size_t(i) * k);
    sort_by_expert(n);
    // Each expert once, with all its rows: in, the gate, out. Row s is slot slots_[s].
    const auto each_expert = [&](auto &&run) {
        for (uint32_t s = 0, m = 0; s < n * k; s += m, m = 0) {
            const uint32_t e = chosen_[slots_[s]];
            while (s + m < n * k && chosen_[slots_[s + m]] == e) m++;
            run(e, s, m);
        }
    };
    each_expert([&](uint32_t e, uint32_t s, uint32_t m) {
        x.index = members_ + s;
        x.n = m;
        k_.matmul(layer.experts_in.slice(e * in_groups, 2 * padded), x,
                  hidden_.x + s * hidden_.width, hidden_.width);
    });
    for (uint32_t s = 0; s < n * k; s++) {
        const float *gate = hidden_.x + s * hidden_.width;
        k_.gated_silu(gate, gate + padded, c.d_expert, gated_.x + s * gated_.width);
    }
    const Rows inner = input(gated_, n * k, layer.experts_out.quantized());
    each_expert([&](uint32_t e, uint32_t s, uint32_t m) {
        k_.matmul(layer.experts_out.slice(e * out_groups, c.d_model), inner.slice(s, m),
                  wide_.x + s * wide_.width, wide_.width);
    });
    for (uint32_t s = 0; s < n * k; s++)
        k_.axpy(weights_[slots_[s]], wide_.x + s * wide_.width, c.d_model,
                added_.x + members_[s] * added_.width);
}

// Slots (row, choice) in the order of their experts, and their rows.
void Session::sort_by_expert(uint32_t n) {
    const uint32_t k = model_.config.top_k, experts = model_.config.n_experts;
    if (n == 1) {
        for (uint32_t s = 0; s < k; s++) {
            members_[s] = 0;
            slots_[s] = s;
        }
        return;
    }
    std::fill_n(starts_, experts + 1, 0u);
    for (uint32_t s = 0; s < n * k; s++) starts_[chosen_[s] + 1]++;
    for (uint32_t e = 0; e < experts; e++) starts_[e + 1] += starts_[e];
    for (uint32_t s = n * k; s-- > 0;) {
        const uint32_t at = --starts_[chosen_[s] + 1];
        members_[at] = s / k;
        slots_[at] = s;
    }
}

}  // namespace itera
