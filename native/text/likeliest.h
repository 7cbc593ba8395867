// The likeliest tokens by their logits, with their log-probabilities.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace itera {

using TokenLogProbability = std::pair<int32_t, double>;

// Of the token with this logit; `log_sum` is the logits' log(sum(exp)). In double, so that
// different logits have different log-probabilities.
inline double log_probability(float logit, float log_sum) {
    return double(logit) - double(log_sum);
}

// Appends the `n` likeliest tokens, or all if there are fewer: the likeliest first, equal ones by
// id.
void append_likeliest(std::span<const float> logits, float log_sum, size_t n,
                      std::vector<TokenLogProbability> &out);

}  // namespace itera
