#include "model/session.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "model/pack.h"

namespace itera {

namespace {

// Adds the bias, unless it is null, to `width` floats of each of `n` rows.
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
    const uint64_t rows = max_rows_, choices = std::max<uint64_t>(1, c.top_k);
    uint64_t wide = c.d_model, kv = 0;
    for (const Layer &l : model_.layers) {
        wide = std::max<uint64_t>(wide, l.in.padded_rows());
        kv = std::max<uint64_t>(kv, uint64_t(l.n_kv_heads) * c.head_dim);
    }
    const uint64_t q = uint64_t(c.n_heads) * c.head_dim;
    const uint64_t inner = std::max(round_up(c.d_expert, kLanes), round_up(c.d_ff, kLanes));
    stream_ = buffer(c.d_model, rows);
    normed_ = buffer(c.d_model, rows);
    added_ = buffer(c.d_model, rows);
    wide_ = buffer(wide, rows * choices);
    mixed_ = buffer(std::max<uint64_t>(q, c.d_inner), rows);
    hidden_ = buffer(2 * inner, rows * choices);
    gated_ = buffer(inner, rows * choices);
    queries_ = buffer(q, rows);
    keys_ = buffer(kv, rows);
    values_ = buffer(kv, rows);
    head_stride_ = round_up(c.vocab_size, kLanes);
    logits_ = arena_.take<float>(kLogitRows * head_stride_);
    conv_ = arena_.take<float>(c.d_inner ? c.conv_channels() : 0);
    scores_ = arena_.take<float>(model_.cache8 ? 0 : round_up(c.context, kLanes));
    router_ = arena_.take<float>(rows * round_up(c.n_experts, kLanes));
    weights_ = arena_.take<float>(rows * c.top_k);
    chosen_ = arena_.take<uint32_t>(rows * c.top_k);
    members_ = arena_.take<uint32_t>(rows * c.top_k);
    slots_ = arena_.take<uint32_t>(rows * c.top_k);
    starts_ = arena_.take<uint32_t>(c.n_experts + 1);
    cosines_ = arena_.take<float>(rows * c.rope_dims);
    sines_ = arena_.take<float>(rows * c.rope_dims);
}

Session::Buffer Session::buffer(uint64_t width, uint64_t rows) {
    Buffer b;
    b.width = size_t(round_up(width, kBlock));
    b.x = arena_.take<float>(b.width * rows);
    b.q = arena_.take<int8_t>(b.width * rows);
    b.scales = arena_.take<float>(b.width / kBlock * rows);
    b.sums = arena_.take<int32_t>(b.width / kBlock * rows);
    return b;
}

// The rows of a buffer as input of a product, in 8 bits too where the matrix is quantised.
Rows Session::input(const Buffer &b, uint32_t n, bool quantize, uint32_t first) {
    const size_t from = first * b.width, block = from / kBlock;
    if (quantize)
        k_.quantize(b.x + from, n * b.width, b.q + from, b.scales + block, b.sums + block);
    return {b.x + from, b.width, b.q + from, b.scales + block, b.sums + block, nullptr, n};
}

// out = in @ matrix^T + bias; a null bias adds nothing.
void Session::multiply(const Matrix &matrix, const Rows &in, const Buffer &out, const float *bias) {
    k_.matmul(matrix, in, out.x, out.width);
    add_bias(bias, matrix.rows, out.x, out.width, in.n);
}
void Session::multiply(const Matrix &matrix, const Buffer &in, uint32_t n, const Buffer &out,
                       const float *bias) {
    multiply(matrix, input(in, n, matrix.quantized()), out, bias);
}

// Checks the rows and finds each one's position in its text.
void Session::find_positions(std::span<const Row> rows) {
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
        float *x = stream_.row(i);
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
    find_positions(rows);
    embed(rows);
    bool has_added = false;
    const auto norm = [&](const float *weight) {
        for (uint32_t i = 0; i < n; i++)
            k_.add_norm(stream_.row(i), has_added ? added_.row(i) : nullptr, c.residual_scale,
                        weight, c.norm_eps, c.d_model, normed_.row(i));
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

void Session::multiply_head(uint32_t first, uint32_t n) {
    k_.matmul(model_.head, input(normed_, n, model_.head.quantized(), first), logits_,
              head_stride_);
    if (const float scale = model_.config.logit_scale; scale != 1)
        for (size_t i = 0; i < n * head_stride_; i++) logits_[i] /= scale;
}

void Session::mamba(const Layer &layer, size_t number, std::span<const Row> rows) {
    const Config &c = model_.config;
    const auto n = uint32_t(rows.size());
    const uint32_t channels = c.conv_channels(), before = c.d_conv - 1;
    multiply(layer.in, normed_, n, wide_);
    for (uint32_t i = 0; i < n; i++) {
        const float *z = wide_.row(i), *xbc = z + c.d_inner;
        float *ring = rows[i].state->window(number);  // the last inputs, the oldest overwritten
        const float *window[8];
        for (uint32_t k = 0; k < before; k++)
            window[k] = ring + (positions_[i] + k) % before * channels;
        window[before] = xbc;
        k_.convolve(window, layer.conv, layer.conv_bias, c.d_conv, channels, conv_);
        std::copy_n(xbc, channels, ring + positions_[i] % before * channels);
        k_.ssm_step(z, conv_, conv_ + c.d_inner, conv_ + c.d_inner + c.d_state, xbc + channels,
                    layer.dt_bias, layer.a, layer.d, layer.ssm_norm, c.norm_eps, c.n_ssm_heads,
                    c.ssm_head_dim(), c.d_state, rows[i].state->ssm(number), mixed_.row(i));
    }
    multiply(layer.out, mixed_, n, added_);
}

void Session::attention(const Layer &layer, size_t number, std::span<const Row> rows) {
    const Config &c = model_.config;
    const auto n = uint32_t(rows.size());
    const bool any = layer.q.quantized() || layer.k.quantized() || layer.v.quantized();
    const Rows x = input(normed_, n, any);
    multiply(layer.q, x, queries_, layer.q_bias);
    multiply(layer.k, x, keys_, layer.k_bias);
    multiply(layer.v, x, values_, layer.v_bias);
    const uint32_t group = c.n_heads / layer.n_kv_heads;
    for (uint32_t i = 0; i < n; i++) {
        float *q = queries_.row(i), *k = keys_.row(i);
        if (c.rope_dims) {
            const float *cosines = cosines_ + i * c.rope_dims, *sines = sines_ + i * c.rope_dims;
            for (uint32_t h = 0; h < c.n_heads; h++)
                k_.rotate(q + h * c.head_dim, cosines, sines, c.rope_dims);
            for (uint32_t h = 0; h < layer.n_kv_heads; h++)
                k_.rotate(k + h * c.head_dim, cosines, sines, c.rope_dims);
        }
        for (uint32_t h = 0; h < layer.n_kv_heads; h++) {
            const float *key = k + h * c.head_dim;
            const float *value = values_.row(i) + h * c.head_dim;
            const float *query = q + size_t(h) * group * c.head_dim;
            float *out = mixed_.row(i) + size_t(h) * group * c.head_dim;
            const size_t at = positions_[i];
            if (model_.cache8) {
                const Cache8 cache = rows[i].state->cache8(number, h);
                k_.store8(cache, at, key, value, c.head_dim);
                k_.attend8(query, cache, group, c.head_dim, at + 1, c.attention_scale, out);
            } else {
                float *keys = rows[i].state->keys(number, h);
                float *values = rows[i].state->values(number, h);
                const size_t width = round_up(c.head_dim, kLanes);
                std::copy_n(key, c.head_dim, keys + at * width);
                std::copy_n(value, c.head_dim, values + at * width);
                k_.attend(query, keys, values, group, c.head_dim, at + 1, c.attention_scale,
                          scores_, out);
            }
        }
    }
    multiply(layer.o, mixed_, n, added_, layer.o_bias);
}

void Session::feed_forward(const Layer &layer, uint32_t n) {
    const Config &c = model_.config;
    std::fill_n(added_.x, n * added_.width, 0.0f);
    if (c.n_experts) experts(layer, n);
    if (!c.d_ff) return;
    const size_t padded = round_up(c.d_ff, kLanes);
    multiply(layer.ffn_in, normed_, n, hidden_);
    add_bias(layer.gate_bias, c.d_ff, hidden_.x, hidden_.width, n);
    add_bias(layer.up_bias, c.d_ff, hidden_.x + padded, hidden_.width, n);
    for (uint32_t i = 0; i < n; i++) {
        const float *gate = hidden_.row(i);
        k_.gated_silu(gate, gate + padded, c.d_ff, gated_.row(i));
    }
    // To another buffer first: `added_` holds what the experts computed.
    multiply(layer.ffn_out, gated_, n, wide_, layer.down_bias);
    for (uint32_t i = 0; i < n; i++)
        k_.axpy(1.0f, wide_.row(i), c.d_model, added_.row(i));
}

void Session::experts(const Layer &layer, uint32_t n) {
    const Config &c = model_.config;
    const uint32_t k = c.top_k, stride = uint32_t(round_up(c.n_experts, kLanes));
    const uint32_t padded = uint32_t(round_up(c.d_expert, kLanes));
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
                  hidden_.row(s), hidden_.width);
    });
    for (uint32_t s = 0; s < n * k; s++) {
        const float *gate = hidden_.row(s);
        k_.gated_silu(gate, gate + padded, c.d_expert, gated_.row(s));
    }
    const Rows inner = input(gated_, n * k, layer.experts_out.quantized());
    each_expert([&](uint32_t e, uint32_t s, uint32_t m) {
        k_.matmul(layer.experts_out.slice(e * out_groups, c.d_model), inner.slice(s, m),
                  wide_.row(s), wide_.width);
    });
    for (uint32_t s = 0; s < n * k; s++)
        k_.axpy(weights_[slots_[s]], wide_.row(s), c.d_model,
                added_.row(members_[s]));
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
