// A tensor of a file, and the table of tensor types.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <string_view>

namespace itera {

enum class TensorType : uint32_t { F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, BF16 = 30 };

// A type of ggml. A row is stored in blocks of `values` numbers that take `bytes` bytes; `values`
// is 0 where the engine doesn't read the type.
struct TypeInfo {
    const char *name = "unknown";
    uint32_t values = 0, bytes = 0;
};

// By ggml's number of the type. A type that is refused is still named in the message.
inline constexpr TypeInfo kTypes[] = {
    {"F32", 1, 4}, {"F16", 1, 2}, {"Q4_0", 32, 18}, {"Q4_1"},  {},         {},        {"Q5_0"},
    {"Q5_1"},      {"Q8_0", 32, 34}, {},           {"Q2_K"},  {"Q3_K"},   {"Q4_K"},  {"Q5_K"},
    {"Q6_K"},      {},            {"IQ2_XXS"},      {"IQ2_XS"}, {"IQ3_XXS"}, {"IQ1_S"}, {"IQ4_NL"},
    {"IQ3_S"},     {"IQ2_S"},     {"IQ4_XS"},       {"I8"},    {"I16"},    {"I32"},   {"I64"},
    {"F64"},       {"IQ1_M"},     {"BF16", 1, 2},   {},        {},         {},        {"TQ1_0"},
    {"TQ2_0"},     {},            {},               {},        {"MXFP4"},
};

constexpr TypeInfo info(TensorType type) {
    const auto number = static_cast<uint32_t>(type);
    return number < std::size(kTypes) ? kTypes[number] : TypeInfo{};
}

constexpr bool is_quantized(TensorType type) { return info(type).values > 1; }

struct Tensor {
    std::string_view name;
    TensorType type;
    // PyTorch order, outermost first, unused ones in front are 1: a matrix is
    // {1, 1, rows, columns}, a stack of experts {1, E, rows, columns}, a vector {1, 1, 1, n}.
    // Rows are contiguous.
    uint64_t shape[4];
    std::span<const std::byte> data;

    uint64_t columns() const { return shape[3]; }
    uint64_t rows() const { return shape[2]; }  // of one matrix of a stack
    uint64_t all_rows() const { return shape[0] * shape[1] * shape[2]; }
    uint64_t numbers() const { return all_rows() * columns(); }
};

}  // namespace itera
