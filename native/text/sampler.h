// The next token from logits: greedy, temperature, top-k, top-p, min-p, penalties, bias.
//
// Order: logit bias, repetition penalty, presence and frequency penalty, then (temperature 0: the
// most probable token) temperature, top-k, top-p, min-p, and a draw. All memory is taken in the
// constructor. The same seed gives the same tokens on every machine, if this is compiled with
// -ffp-contract=off and no -ffast-math.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "gguf/error.h"

namespace itera {

inline constexpr int32_t kLongestWindow = 1 << 20;  // of the repetition penalty, in tokens

struct SamplerOptions {
    float temperature = 0.8f;  // 0: greedy
    int32_t top_k = 0;         // 0: all
    float top_p = 0.95f;       // 1: all
    float min_p = 0.0f;        // of the most probable token's probability; 0: all
    float repetition_penalty = 1.0f;  // logits of recent tokens: divided if positive, else times
    int32_t repetition_window = 64;   // how many recent tokens count
    // OpenAI's: subtracted from the logits of tokens that were generated, once and as often as
    // each was; tokens of the prompt don't count. -2 to 2.
    float presence_penalty = 0.0f, frequency_penalty = 0.0f;
    uint64_t seed = 0;
    std::vector<std::pair<int32_t, float>> logit_bias;  // token, added to its logit
};

class Sampler {
  public:
    // Throws `UsageError` where an option is out of its range; the message names it.
    Sampler(const SamplerOptions &options, int32_t vocab_size);

    // Picks a token; `logits` (vocab_size) are changed. NaN, inf or all -inf logits throw `Error`.
    int32_t sample(std::span<float> logits);
    // Adds a token to those that the penalties count: of the prompt, or one that was generated.
    void accept(int32_t token, bool generated = true);
    // The greatest logit. Throws `Error` where one is NaN, or the greatest isn't finite.
    static float greatest(std::span<const float> logits);

  private:
    void adjust(std::span<float> logits);  // by bias and penalties
    double uniform();

    // Weights of tokens and their ids in order, with zeros up to a multiple of 16.
    struct List {
        std::vector<float> weights;
        std::vector<uint32_t> ids;
        size_t size = 0;
    };
    // The rank of the last of the greatest `count` weights, in a list of as many or more, which are
    // at least `least`.
    uint64_t border(const List &list, float least, size_t count);
    float bound_of(size_t count, float least);
    void keep_from(const List &list, float least);     // fills `kept_`
    void keep_up_to(const List &list, uint64_t rank);  // so too, up to a token's rank
    static double mass_from(const List &list, float least);
    // An id of the greatest weights that together reach `target`, given the sum of all.
    uint32_t draw(const List &list, double mass, double target);

    SamplerOptions options_;
    int32_t vocab_size_;
    uint64_t random_[2];  // state of xoroshiro128++
    List all_, kept_, rest_;
    std::vector<int32_t> recent_;      // ring of the last tokens
    size_t n_recent_ = 0;
    std::vector<uint64_t> penalised_;  // by token: the last call of `adjust` that penalised it
    uint64_t calls_ = 0;
    std::vector<float> counts_;        // by token: how often it was generated
    std::vector<int32_t> generated_;   // each token that was, once
};

}  // namespace itera
