// Hash functions of tables, fingerprints and seeds.
#pragma once

#include <cstdint>
#include <random>

namespace itera {

// The output function of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the result depends
// on every bit of the value.
inline uint64_t mix64(uint64_t value) {
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
    value = (value ^ value >> 27) * 0x94d049bb133111eb;
    return value ^ value >> 31;
}

// The next number of SplitMix64.
inline uint64_t splitmix64(uint64_t &state) { return mix64(state += 0x9e3779b97f4a7c15); }

// A key for a hash table, drawn anew for each: no file can be made whose entries all collide.
inline uint64_t random_key() {
    std::random_device device;
    return uint64_t{device()} << 32 | device();
}

// A step of FNV-1a, eight bytes at a time. It detects damage, not malice.
inline constexpr uint64_t kFnvStart = 0xcbf29ce484222325;
inline uint64_t fnv1a(uint64_t hash, uint64_t word) { return (hash ^ word) * 0x100000001b3; }

}  // namespace itera
