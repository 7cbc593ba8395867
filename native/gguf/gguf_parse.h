// The parts of a GGUF file, found and checked in one pass. Only gguf.cc needs this.
#pragma once

#include <bit>
#include <cstring>

#include "gguf/gguf.h"

namespace itera {

static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies: little endian");

// The file gives no alignment for what lies in its metadata, hence the copy.
template <typename T>
T load(const std::byte *at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

// Types of metadata values, numbered as in the file.
enum class Kind : uint32_t { U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64 };
const char *kind_name(Kind kind);
size_t kind_bytes(Kind kind);  // of one value; 0: the size depends on the value

// A metadata value stays in the file. A single value is kept as an array of one.
struct Entry {
    std::string_view key;
    Kind kind;  // of the elements; never Array
    bool is_array;
    uint64_t count;
    const std::byte *values;
};

struct Parts {
    std::vector<Entry> entries;  // in order of their keys, which differ
    std::vector<Tensor> tensors;  // in order of their names, which differ
};

// Throws `Error` at the first thing that is wrong.
Parts parse_gguf(std::span<const std::byte> bytes);

}  // namespace itera
