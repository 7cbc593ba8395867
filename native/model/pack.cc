#include "model/pack.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "gguf/error.h"
#include "gguf/parse.h"

namespace itera {

namespace {

// How many numbers, one every `step` bytes, have all bits of the exponent set. By their bits: this
// holds whatever the compiler assumes about floats.
template <typename Bits>
uint64_t count_not_finite(std::span<const std::byte> data, size_t step, Bits exponent) {
    uint64_t count = 0;
    for (size_t at = 0; at + sizeof(Bits) <= data.size(); at += step)
        count += (read_as<Bits>(data.data() + at) & exponent) == exponent;
    return count;
}

void refuse_not_finite(const Tensor &tensor) {
    const size_t step = info(tensor.type).bytes;  // a block begins with its scale, an F16
    const uint64_t count =
        tensor.type == TensorType::F32 ? count_not_finite<uint32_t>(tensor.data, step, 0x7f800000)
        : tensor.type == TensorType::BF16 ? count_not_finite<uint16_t>(tensor.data, step, 0x7f80)
                                          : count_not_finite<uint16_t>(tensor.data, step, 0x7c00);
    if (count == 0) return;
    throw Error("tensor " + quoted(tensor.name) + " has " + std::to_string(count) +
                (is_quantized(tensor.type) ? " scales" : " weights") +
                " that are NaN or infinite: the training diverged, or the file is damaged");
}

uint64_t row_bytes(TensorType type, uint64_t columns) {
    return columns / info(type).values * info(type).bytes;
}

uint64_t group_bytes(TensorType type, uint64_t columns) {
    return round_up(row_bytes(type, columns) * kLanes, 64);
}

// The offset in a group of a block's scales; `Bytes` are those of the weights of a block.
template <size_t Bytes> size_t scales_at(uint32_t blocks, uint32_t block) {
    return (blocks * Bytes + block * sizeof(uint16_t)) * kLanes;
}

template <class T>
void place_numbers(const std::byte *row, uint32_t columns, uint32_t lane, std::byte *group) {
    for (size_t c = 0; c < columns; c++)
        std::memcpy(group + (c * kLanes + lane) * sizeof(T), row + c * sizeof(T), sizeof(T));
}

template <size_t Bytes>
void place_blocks(const std::byte *row, uint32_t blocks, uint32_t lane, uint8_t flip,
                  std::byte *group) {
    for (uint32_t b = 0; b < blocks; b++, row += 2 + Bytes) {
        std::memcpy(group + scales_at<Bytes>(blocks, b) + lane * 2, row, 2);
        auto *to = reinterpret_cast<uint8_t *>(group) + b * Bytes * kLanes + lane * 4;
        for (size_t c = 0; c < Bytes; c++) {
            auto w = uint8_t(row[2 + c]);
            if constexpr (Bytes == kBlock) {
                if (w == 0x80) w = 0x81;  // -128: no writer makes it, and AVX2 can't multiply it
                w ^= flip;
            }
            to[(c / 4) * 64 + c % 4] = w;
        }
    }
}

// A row of the file to lane `lane` of a group.
void place_row(const std::byte *row, const Matrix &m, uint32_t lane, uint8_t flip,
               std::byte *group) {
    switch (m.type) {
    case TensorType::F32: return place_numbers<uint32_t>(row, m.columns, lane, group);
    case TensorType::F16:
    case TensorType::BF16: return place_numbers<uint16_t>(row, m.columns, lane, group);
    case TensorType::Q8_0: return place_blocks<32>(row, m.columns / kBlock, lane, flip, group);
    case TensorType::Q4_0: return place_blocks<16>(row, m.columns / kBlock, lane, flip, group);
    }
}

template <size_t Bytes>
void unpack_blocks(const std::byte *group, uint32_t blocks, uint32_t lane, uint8_t flip,
                   float *out) {
    for (uint32_t b = 0; b < blocks; b++) {
        const auto half = read_as<uint16_t>(group + scales_at<Bytes>(blocks, b) + lane * 2);
        const float scale = half_to_float(half);
        const auto *q = reinterpret_cast<const uint8_t *>(group) + b * Bytes * kLanes + lane * 4;
        for (uint32_t c = 0; c < kBlock; c++) {
            const uint8_t w = q[(c % Bytes / 4) * 64 + c % 4];
            if constexpr (Bytes == kBlock)
                *out++ = scale * float(int8_t(w ^ flip));
            else
                *out++ = scale * float(int(c < Bytes ? w & 15 : w >> 4) - 8);
        }
    }
}

float number_at(const std::byte *at, TensorType type) {
    switch (type) {
    case TensorType::F16: return half_to_float(read_as<uint16_t>(at));
    case TensorType::BF16: return std::bit_cast<float>(uint32_t(read_as<uint16_t>(at)) << 16);
    default: return read_as<float>(at);
    }
}

}  // namespace

uint64_t packed_bytes(const Tensor &tensor) {
    // A stack of experts fills up the last group of each of its parts.
    const uint64_t parts = tensor.shape[0] * tensor.shape[1];
    const uint64_t groups = parts * ((tensor.rows() + kLanes - 1) / kLanes);
    const uint64_t as_matrix = groups * group_bytes(tensor.type, tensor.columns());
    const uint64_t as_floats = round_up(tensor.numbers() * 4, 64);
    const bool small = tensor.all_rows() <= 8;  // a vector, a convolution's taps
    const bool thin = tensor.columns() <= 8;  // taps, which are turned into rows: twice
    return std::max(as_matrix, thin ? 2 * as_floats : small ? as_floats : uint64_t{0});
}

Matrix pack(std::span<const Tensor *const> tensors, Arena &arena, const Kernels &kernels,
            uint32_t stack) {
    const Tensor &first = *tensors.front(), &last = *tensors.back();
    if (first.type != last.type)
        throw Error("tensors '" + std::string(first.name) + "' and '" + std::string(last.name) +
                    "' have types " + info(first.type).name + " and " + info(last.type).name +
                    ": expected one type for both");
    for (const Tensor *tensor : tensors) refuse_not_finite(*tensor);
    const uint64_t total = first.all_rows();
    if (total * tensors.size() > UINT32_MAX - kLanes || first.columns() > UINT32_MAX / 2)
        throw Error("tensor '" + std::string(first.name) + "' has too many rows or columns");
    const uint32_t part = stack ? stack : uint32_t(total), groups = (part + kLanes - 1) / kLanes;
    Matrix m;
    m.type = first.type;
    m.columns = uint32_t(first.columns());
    m.rows = stack ? uint32_t(total / stack * tensors.size()) * groups * kLanes : uint32_t(total);
    m.group_bytes = group_bytes(m.type, m.columns);
    const size_t row_size = row_bytes(m.type, m.columns);
    std::byte *to = arena.take(m.groups() * m.group_bytes);
    m.data = to;
    for (uint64_t begin = 0; begin < total; begin += part)
        for (const Tensor *tensor : tensors) {
            const std::byte *row = tensor->data.data() + begin * row_size;
            for (uint32_t r = 0; r < part; r++, row += row_size)
                place_row(row, m, r % kLanes, kernels.flip, to + r / kLanes * m.group_bytes);
            to += groups * m.group_bytes;
        }
    return m;
}

float *pack_floats(const Tensor &tensor, Arena &arena) {
    refuse_not_finite(tensor);
    if (is_quantized(tensor.type))
        throw Error("tensor '" + std::string(tensor.name) + "' has type " + info(tensor.type).name +
                    ": expected F32, F16 or BF16");
    const size_t n = tensor.numbers(), size = info(tensor.type).bytes;
    auto *out = arena.take<float>(n);
    for (size_t i = 0; i < n; i++) out[i] = number_at(tensor.data.data() + i * size, tensor.type);
    return out;
}

void unpack_row(const Matrix &m, uint32_t row, uint8_t flip, float *out) {
    const std::byte *group = m.data + row / kLanes * m.group_bytes;
    const uint32_t lane = row % kLanes, blocks = m.columns / kBlock;
    if (m.type == TensorType::Q8_0) return unpack_blocks<32>(group, blocks, lane, flip, out);
    if (m.type == TensorType::Q4_0) return unpack_blocks<16>(group, blocks, lane, flip, out);
    const size_t size = info(m.type).bytes;
    for (uint32_t c = 0; c < m.columns; c++)
        out[c] = number_at(group + (c * kLanes + lane) * size, m.type);
}

}  // namespace itera
