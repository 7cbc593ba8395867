// Weights that are no numbers.
#pragma once

#include "gguf/gguf.h"

namespace itera {

// Throws `Error` that names the tensor where one of its weights, or of their scales, is NaN or
// infinite: such a model gives no text, and 8-bit products would hide it.
void refuse_not_finite(const Tensor &tensor);

}  // namespace itera
