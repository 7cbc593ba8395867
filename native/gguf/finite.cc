#include "gguf/finite.h"

#include <cstring>

namespace itera {
namespace {

// How many numbers, one every `step` bytes, have all bits of the exponent set. By their bits: this
// holds whatever the compiler assumes about floats.
template <typename Bits>
uint64_t count_not_finite(std::span<const std::byte> data, size_t step, Bits exponent) {
    uint64_t count = 0;
    for (size_t at = 0; at + sizeof(Bits) <= data.size(); at += step) {
        Bits bits;
        std::memcpy(&bits, data.data() + at, sizeof bits);
        count += (bits & exponent) == exponent;
    }
    return count;
}

uint64_t count_not_finite(const Tensor &tensor) {
    constexpr uint16_t half = 0x7c00, bhalf = 0x7f80;
    switch (tensor.type) {
        case TensorType::F32: return count_not_finite<uint32_t>(tensor.data, 4, 0x7f800000);
        case TensorType::F16: return count_not_finite(tensor.data, 2, half);
        case TensorType::BF16: return count_not_finite(tensor.data, 2, bhalf);
        case TensorType::Q8_0: return count_not_finite(tensor.data, 34, half);
        case TensorType::Q4_0: return count_not_finite(tensor.data, 18, half);
    }
    return 0;
}

}  // namespace

void refuse_not_finite(const Tensor &tensor) {
    const uint64_t count = count_not_finite(tensor);
    if (count == 0) return;
    const bool scales = tensor.type == TensorType::Q8_0 || tensor.type == TensorType::Q4_0;
    throw Error("tensor " + quoted(tensor.name) + " has " + std::to_string(count) +
                (scales ? " scales" : " weights") +
                " that are NaN or infinite: the training diverged, or the file is damaged");
}

}  // namespace itera
