// Small changes to a file, the same on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "text/hash.h"

// The metadata and the tensors' descriptions lie in these first bytes of the files that we start
// from. Most changes go there: weights accept any bits.
inline constexpr size_t head_bytes = 7168;

struct Random {
    uint64_t state;
    uint64_t next() { return itera::splitmix64(state); }
    size_t below(size_t limit) { return static_cast<size_t>(next() % limit); }
};

// Makes one to four changes; the file never grows.
void mutate(std::vector<std::byte> &bytes, Random &random);
