// What a model remembers of one text: convolution windows, state-space states, keys and values.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/model.h"

namespace itera {

// Where one layer's memory lies inside a state. Sizes in floats, or bytes for 8-bit memories.
struct LayerPlan {
    size_t window = 0, ssm = 0;                    // Mamba-2: [d_conv - 1][channels], states
    size_t keys = 0, values = 0;                   // attention: of all kv heads
    size_t key_scales = 0, value_scales = 0;       // 8-bit memories only
    size_t head_keys = 0, head_scales = 0;         // strides from head to head
};

class State {
  public:
    // Before the first token. Memory for `context` tokens is reserved at once and used as needed.
    explicit State(const Model &model);
    State(State &&) noexcept = default;

    const Model &model() const { return *model_; }
    uint32_t length() const { return length_; }  // tokens read
    uint32_t context() const { return context_; }
    State fork() const;  // an independent copy

    // The used part as bytes, and back. `restore` throws `Error` where the bytes are damaged or
    // of another model.
    std::string save() const;
    static State restore(const Model &model, std::string_view bytes);

    void clear();  // as before the first token

    // For the layers.
    float *window(size_t layer) { return at<float>(plan_[layer].window); }
    float *ssm(size_t layer) { return at<float>(plan_[layer].ssm); }
    float *keys(size_t layer, size_t head) {
        return at<float>(plan_[layer].keys + head * plan_[layer].head_keys);
    }
    float *values(size_t layer, size_t head) {
        return at<float>(plan_[layer].values + head * plan_[layer].head_keys);
    }
    Cache8 cache8(size_t layer, size_t head);
    void advance() { length_++; }

  private:
    template <class T> T *at(size_t offset) { return reinterpret_cast<T *>(memory_ + offset); }
    struct Part {
        size_t begin, bytes;
    };
    std::vector<Part> used_parts() const;

    const Model *model_;
    std::vector<LayerPlan> plan_;
    Arena arena_;
    std::byte *memory_ = nullptr;
    uint32_t length_ = 0, context_ = 0;
};

}  // namespace itera
