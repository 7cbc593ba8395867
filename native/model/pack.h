// Weights as the file stores them, repacked once for the kernels (see `Matrix`).
//
// Packing throws `Error` that names the tensor where a weight, or the scale of a block, is NaN or
// infinite: such a model gives no text, and 8-bit products would hide it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "gguf/tensor.h"
#include "kernels/kernels.h"
#include "model/arena.h"

namespace itera {

// Bytes that a tensor takes from an arena at most, as a matrix or as floats.
uint64_t packed_bytes(const Tensor &tensor);

// The rows of tensors of one shape and type as one matrix, all leading dimensions taken together.
// With `stack` > 0 a tensor is a stack of experts of that many rows: each begins a new group, and
// the tensors take turns (expert by expert, the gate's groups, then the up's).
Matrix pack(std::span<const Tensor *const> tensors, Arena &arena, const Kernels &kernels,
            uint32_t stack = 0);

// A vector or small table as floats (types F32, F16, BF16), rows in the file's order.
float *pack_floats(const Tensor &tensor, Arena &arena);

// One row of a packed matrix as floats.
void unpack_row(const Matrix &matrix, uint32_t row, uint8_t flip, float *out);

}  // namespace itera
