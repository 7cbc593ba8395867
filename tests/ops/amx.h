// Intel's tiles in plain C++, so that the tests of their products run on any processor. `-include`
// it before a source of itera_lite/ops, after avx512.h where the processor lacks those instructions
// too.
#pragma once

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define __AMX_BF16__ 1

#pragma GCC push_options
#pragma GCC optimize("O2")

namespace amx {

struct Tile {
  int rows = 0, bytes = 0;  // as configured
  uint32_t word[16][16];
};
inline thread_local Tile tiles[8];

inline float wide(uint32_t v) {
  v <<= 16;
  float to;
  std::memcpy(&to, &v, 4);
  return to;
}

[[gnu::noinline]] inline void load_config(const void* from) {
  auto given = (const uint8_t*)from;
  for (int t = 0; t < 8; t++) {
    uint16_t bytes;
    std::memcpy(&bytes, given + 16 + 2 * t, 2);
    tiles[t].rows = given[48 + t];
    tiles[t].bytes = bytes;
  }
}
inline void release() {
  for (Tile& tile : tiles) tile.rows = tile.bytes = 0;
}
inline void zero(int t) { std::memset(tiles[t].word, 0, sizeof tiles[t].word); }
[[gnu::noinline]] inline void load(int t, const void* from, int64_t stride) {
  zero(t);
  for (int r = 0; r < tiles[t].rows; r++)
    std::memcpy(tiles[t].word[r], (const char*)from + r * stride, tiles[t].bytes);
}
[[gnu::noinline]] inline void store(int t, void* to, int64_t stride) {
  for (int r = 0; r < tiles[t].rows; r++)
    std::memcpy((char*)to + r * stride, tiles[t].word[r], tiles[t].bytes);
}
// The even numbers of a row and the odd ones are summed apart.
[[gnu::noinline]] inline void multiply(int to, int a, int b) {
  for (int r = 0; r < tiles[to].rows; r++)
    for (int c = 0; c < tiles[to].bytes / 4; c++) {
      float sum, even = 0, odd = 0;
      for (int k = 0; k < tiles[a].bytes / 4; k++) {
        uint32_t x = tiles[a].word[r][k], y = tiles[b].word[k][c];
        even = std::fma(wide(x & 0xffff), wide(y & 0xffff), even);
        odd = std::fma(wide(x >> 16), wide(y >> 16), odd);
      }
      std::memcpy(&sum, &tiles[to].word[r][c], 4);
      sum += even + odd;
      std::memcpy(&tiles[to].word[r][c], &sum, 4);
    }
}

}  // namespace amx
#pragma GCC pop_options

#undef _tile_dpbf16ps
#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#define _tile_dpbf16ps amx::multiply
#define _tile_loadconfig amx::load_config
#define _tile_loadd amx::load
#define _tile_release amx::release
#define _tile_stored amx::store
#define _tile_zero amx::zero
#define syscall(...) 0
