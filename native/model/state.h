// What a model keeps of the tokens of one text that it has read: convolution windows, state-space
// states, keys and values.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/model.h"

namespace itera {

class State {
  public:
    // Before the first token. Memory for `context` tokens is reserved at once and used as needed.
    explicit State(const Model &model);
    State(State &&) noexcept = default;

    void check_model(const Model &model) const;  // throws `UsageError` where it is another one
    uint32_t length() const { return length_; }  // tokens read
    uint32_t context() const { return context_; }
    State fork() const;  // an independent copy
    void assign(const State &other);  // becomes a copy of a state of the same model
    size_t bytes() const;  // of memory in use, in whole pages

    // The used part as bytes, and a state from them. `restore` throws `Error` where the bytes are
    // damaged or of another model.
    std::string save() const;
    static State restore(const Model &model, std::string_view bytes);

    void clear();  // as before the first token

    // The memory of one layer, and of one of its key/value heads. Keys and values are floats where
    // the model's `cache8` is false.
    float *window(size_t layer) { return at<float>(layer, kWindow); }
    float *ssm(size_t layer) { return at<float>(layer, kSsm); }
    float *keys(size_t layer, size_t head) { return at<float>(layer, kKeys, head); }
    float *values(size_t layer, size_t head) { return at<float>(layer, kValues, head); }
    Cache8 cache8(size_t layer, size_t head) {
        return {at<uint8_t>(layer, kKeys, head), at<float>(layer, kKeyScales, head),
                at<int8_t>(layer, kValues, head), at<float>(layer, kValueScales, head)};
    }
    void advance() { length_++; }

  private:
    // A layer of Mamba-2 has a window and states; one of attention has keys and values of each
    // head, with scales where they have 8 bits. `count` areas begin `stride` bytes apart; each has
    // `fixed` bytes and `per_position` for every token.
    enum Kind { kWindow, kSsm, kKeys, kValues, kKeyScales, kValueScales, kKinds };
    struct Areas {
        uint64_t begin = 0, stride = 0, count = 0, fixed = 0, per_position = 0;
    };
    template <class T> T *at(size_t layer, Kind kind, size_t index = 0) {
        const Areas &areas = layers_[layer][kind];
        return reinterpret_cast<T *>(memory_ + areas.begin + index * areas.stride);
    }
    // The parts of the memory that hold something after `length_` tokens.
    std::vector<std::span<std::byte>> used_parts() const;

    const Model *model_;
    std::vector<std::array<Areas, kKinds>> layers_;
    Arena arena_;
    std::byte *memory_ = nullptr;
    uint32_t length_ = 0, context_ = 0;
};

}  // namespace itera
