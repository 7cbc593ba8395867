// The time of a decoded token, part by part.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "model/model.h"

namespace itera {

// Seconds a token of greedy decoding after a prompt, by part; then "rest", the time outside kernels
// and sampler, and "total", measured without clocks in between. The time of the clocks themselves
// is subtracted. Decodes `passes` times `tokens` tokens with clocks and without, in turns; each
// number is a median, so that they needn't add up exactly.
std::vector<std::pair<const char *, double>> profile(const Model &model,
                                                     std::span<const int32_t> prompt,
                                                     uint32_t tokens, uint32_t passes);

}  // namespace itera
