// Dropout's choice: a hash of a number's place, so that any order, and a backward pass, repeat it.
#pragma once

#include "common.h"

namespace itera {

// A number is dropped where the hash of its place is below ``threshold`` of 2^32.
struct Drop {
  uint32_t key, threshold;
  explicit operator bool() const { return threshold; }
  // A vector of numbers from a place on, or zero. The hash is 'lowbias32' (Wellons, 2018,
  // https://nullprogram.com/blog/2018/07/31/).
  vec operator()(vec v, int64_t place) const {
    uvec h = ((uvec)LANE + uint32_t(place)) ^ key;
    h ^= h >> 16;
    h *= 0x7feb352du;
    h ^= h >> 15;
    h *= 0x846ca68bu;
    h ^= h >> 16;
    return (vec)((ivec)v & (ivec)(h >= threshold));
  }
};

}  // namespace itera
