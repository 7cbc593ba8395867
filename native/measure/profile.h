// Where the time of a decoded token goes.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "model/model.h"

namespace itera {

// Seconds a token of greedy decoding after a prompt, by part; then "rest", which is what neither a
// kernel nor the sampler takes, and "total", measured without the clocks in between. What the
// clocks themselves take is subtracted. `passes` times `tokens` tokens with clocks and without, in
// turns; each number is a median, so that they needn't add up exactly.
std::vector<std::pair<const char *, double>> profile(const Model &model,
                                                     std::span<const int32_t> prompt,
                                                     uint32_t tokens, uint32_t passes);

}  // namespace itera
