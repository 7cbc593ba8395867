// The forward pass: rows of tokens, each of some text, to hidden states and logits.
#pragma once

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

// Working memory for up to `max_rows` rows at a time; a thread has its own.
class Session {
  public:
    // `kernels` replaces the model's own (see profile.h); the caller keeps it alive.
    Session(const Model &model, uint32_t max_rows, const Kernels *kernels = nullptr);

    // Reads the rows and advances their states; at most `max_rows`. Throws `UsageError` for a
    // token outside the vocabulary or a text longer than its state has room for; nothing is read
    // then.
    void forward(std::span<const Row> rows);
    // Logits (n, vocab_size) of the rows [first, first + n) of the last pass; the pointer is valid
    // until the next call. n is at most `kLogitRows`.
    float *logits(uint32_t first, uint32_t n);

    uint32_t max_rows() const { return max_rows_; }
    // One more than the last: floats from row to row of `logits`.
    size_t logit_stride() const { return head_stride_; }
    static constexpr uint32_t kLogitRows = 8;

  private:
    struct Buffer {  // rows of floats, and the same in 8 bits
        size_t width = 0;
        float *x = nullptr;
        int8_t *q = nullptr;
        float *scales = nullptr;
        int32_t *sums = nullptr;
    };
    void layout();
    void place(std::span<const Row> rows);
    void embed(std::span<const Row> rows);
    Buffer buffer(size_t width, size_t rows);
    Rows input(const Buffer &buffer, uint32_t n, bool quantize, uint32_t first = 0);
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
    // The residual stream, its norm and what is added next; then what the layers compute.
    Buffer stream_, normed_, wide_, mixed_, added_, hidden_, gated_, queries_, keys_, values_;
    float *logits_ = nullptr, *conv_ = nullptr, *scores_ = nullptr, *router_ = nullptr;
    float *cosines_ = nullptr, *sines_ = nullptr, *weights_ = nullptr;
    uint32_t *chosen_ = nullptr, *members_ = nullptr, *slots_ = nullptr, *starts_ = nullptr;
    std::vector<uint32_t> positions_;  // of the rows of this pass, each in its text
};

}  // namespace itera
