// The parts of a softmax over logits: their maximum and their exponentials.
#pragma once

#include <span>

#include "gguf/error.h"

namespace itera {

// The greatest logit. Throws `Error` where one is NaN, or the greatest isn't finite.
float maximum(std::span<const float> logits);

// The sum of e^((x - max) / temperature) over the logits. Each is written to `weights`, unless that
// is empty; `weights` may be the logits. Exact to about 1e-7 of the value; 0 below e^-87. The same
// bits on every machine.
double exponentials(std::span<const float> logits, float max, float temperature,
                    std::span<float> weights);

}  // namespace itera
