// Finds and checks the parts of a GGUF file in one pass.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>
#include <vector>

#include "gguf/tensor.h"

namespace itera {

static_assert(std::endian::native == std::endian::little, "GGUF is read in place: little endian");

// A value at any address: metadata in a file isn't aligned.
template <typename T>
T read_as(const std::byte *at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

// Types of metadata values, numbered as in the file.
enum class Kind : uint32_t { U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64 };
const char *kind_name(Kind kind);
size_t kind_bytes(Kind kind);  // of one value; 0: the size depends on the value

// A metadata key with its values, which stay in the file. A single value is an array of one.
struct Entry {
    std::string_view key;
    Kind kind;  // of the elements; never Array
    bool is_array;
    uint64_t count;
    const std::byte *values;
};

struct Parts {
    std::vector<Entry> entries;   // sorted by key; the keys differ
    std::vector<Tensor> tensors;  // sorted by name; the names differ
};

// The element with this name in a vector that is sorted by it, or nullptr.
template <typename T>
const T *find_named(const std::vector<T> &sorted, std::string_view T::*name,
                    std::string_view wanted) {
    const auto found = std::ranges::lower_bound(sorted, wanted, {}, name);
    return found != sorted.end() && (*found).*name == wanted ? &*found : nullptr;
}

// Throws `Error` at the first thing that is wrong.
Parts parse_gguf(std::span<const std::byte> bytes);

}  // namespace itera
