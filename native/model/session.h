// The forward pass: rows of tokens, each of some text, to hidden states and logits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "model/model.h"
#include "model/state.h"

namespace itera {

// One token to read, and the state of its text. Rows of one text follow each other in order, so
// that the same pass reads a prompt, decodes several texts at once, or both.
struct Row {
    int32_t token;
    State *state;
};

// Computes up to `max_rows` rows at a time, in memory of its own; each thread needs one.
class Session {
  public:
    // `kernels` replaces the model's own (profile.cc measures with it); the caller keeps it alive.
    Session(const Model &model, uint32_t max_rows, const Kernels *kernels = nullptr);

    // Reads the rows and advances their states; at most `max_rows`. Throws `UsageError` for a
    // token outside the vocabulary or a text longer than its state has room for; nothing is read
    // then.
    void forward(std::span<const Row> rows);
    // Calls `use(row, logits)` for rows [first, end) of the last pass, in order. The logits
    // (vocab_size) may be changed and are valid during the call only.
    template <class Use> void logits(uint32_t first, uint32_t end, Use use) {
        for (; first < end; first += kLogitRows) {
            const uint32_t n = std::min(kLogitRows, end - first);
            multiply_head(first, n);
            for (uint32_t i = 0; i < n; i++) use(first + i, logits_ + i * head_stride_);
        }
    }
    // Reads tokens of one text in as many passes as they take. After each pass `use(at, n)` is
    // called: its rows are the tokens [at, at + n).
    template <class Use> void read(State &state, std::span<const int32_t> tokens, Use use) {
        for (size_t at = 0; at < tokens.size(); at += rows_.size()) {
            rows_.clear();
            const size_t n = std::min<size_t>(max_rows_, tokens.size() - at);
            for (const int32_t token : tokens.subspan(at, n)) rows_.push_back({token, &state});
            forward(rows_);
            use(at, uint32_t(rows_.size()));
        }
    }
    void read(State &state, std::span<const int32_t> tokens) {
        read(state, tokens, [](size_t, uint32_t) {});
    }

    uint32_t max_rows() const { return max_rows_; }

  private:
    static constexpr uint32_t kLogitRows = 8;  // rows whose logits there is room for
    struct Buffer {  // rows of floats, and the same in 8 bits
        size_t width = 0;
        float *x = nullptr;
        int8_t *q = nullptr;
        float *scales = nullptr;
        int32_t *sums = nullptr;
        float *row(size_t i) const { return x + i * width; }
    };
    void layout();
    void find_positions(std::span<const Row> rows);
    void embed(std::span<const Row> rows);
    Buffer buffer(uint64_t width, uint64_t rows);
    Rows input(const Buffer &buffer, uint32_t n, bool quantize, uint32_t first = 0);
    void multiply(const Matrix &matrix, const Rows &in, const Buffer &out,
                  const float *bias = nullptr);
    void multiply(const Matrix &matrix, const Buffer &in, uint32_t n, const Buffer &out,
                  const float *bias = nullptr);
    void multiply_head(uint32_t first, uint32_t n);
    void mamba(const Layer &layer, size_t number, std::span<const Row> rows);
    void attention(const Layer &layer, size_t number, std::span<const Row> rows);
    void feed_forward(const Layer &layer, uint32_t n);
    void experts(const Layer &layer, uint32_t n);
    void sort_by_expert(uint32_t n);

    const Model &model_;
    const Kernels &k_;
    uint32_t max_rows_;
    Arena arena_;
    size_t head_stride_;
    // The residual stream, its norm, and the sum that is added next; then results inside a layer.
    Buffer stream_, normed_, wide_, mixed_, added_, hidden_, gated_, queries_, keys_, values_;
    float *logits_ = nullptr, *conv_ = nullptr, *scores_ = nullptr, *router_ = nullptr;
    float *cosines_ = nullptr, *sines_ = nullptr, *weights_ = nullptr;
    uint32_t *chosen_ = nullptr, *members_ = nullptr, *slots_ = nullptr, *starts_ = nullptr;
    std::vector<uint32_t> positions_;  // of the rows of this pass, each in its text
    std::vector<Row> rows_;            // of `read`
};

}  // namespace itera
