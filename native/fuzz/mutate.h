// Small changes to a file, the same on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// Where the metadata and the tensors' descriptions lie in the files that we start from. Most
// changes go there: weights accept any bits.
inline constexpr size_t head_bytes = 7168;

// SplitMix64.
struct Random {
    uint64_t state;
    uint64_t next();
    size_t below(size_t limit) { return static_cast<size_t>(next() % limit); }
};

void mutate(std::vector<std::byte> &bytes, Random &random);
