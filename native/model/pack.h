// Weights as the file stores them, repacked once for the kernels (see `Matrix`).
#pragma once

#include <cstddef>

#include "gguf/gguf.h"
#include "kernels/kernels.h"

namespace itera {

// Memory that is taken at once and handed out in parts, in order: of a model's weights, of a state,
// of a session.
class Arena {
  public:
    Arena() = default;
    explicit Arena(size_t bytes);  // throws `Error` where there is no such memory
    Arena(Arena &&other) noexcept;
    Arena &operator=(Arena &&other) noexcept;
    ~Arena();
    // Zeros, aligned to 64. An arena without memory only counts, and gives null.
    std::byte *take(size_t bytes);
    size_t used() const { return used_; }

  private:
    std::byte *base_ = nullptr;
    size_t size_ = 0, used_ = 0;
};

// Bytes of one group of 16 rows.
size_t group_bytes(TensorType type, uint64_t columns);
// Bytes that `pack` takes from an arena for this tensor, whichever way it is used; a bound.
size_t packed_bytes(const Tensor &tensor);

// Rows of the tensor (all leading dimensions taken together) as a matrix. With `stack` > 0, every
// `stack` rows begin a new group: experts of a stack of that many rows each.
Matrix pack(const Tensor &tensor, Arena &arena, const Kernels &kernels, uint32_t stack = 0);
// The same for a gate and an up projection: for each expert, the gate's groups, then the up's.
Matrix pack_pair(const Tensor &gate, const Tensor &up, Arena &arena, const Kernels &kernels,
                 uint32_t stack);

// A vector or small table as floats (types F32, F16, BF16), rows in the file's order.
float *pack_floats(const Tensor &tensor, Arena &arena);

// One row of a packed matrix as floats.
void unpack_row(const Matrix &matrix, uint32_t row, uint8_t flip, float *out);

}  // namespace itera
