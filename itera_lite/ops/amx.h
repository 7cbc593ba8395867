// Intel's AMX: registers of 16 rows of 64 bytes, tiles, and the product of two tiles of bfloat16.
//
// Where a processor has it, products are several times as fast as with vectors of bfloat16.
#pragma once

#include <cstdint>

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define ITERA_AMX
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace itera {

// Whether this process may use tiles: Linux reserves their memory only for those who ask.
inline bool has_tiles() {
  constexpr long REQUEST = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
  return granted;
}

constexpr int64_t TILE_ROWS = 16;
constexpr int64_t TILE_WORDS = 16;              // of a row: floats, or pairs of bfloat16
constexpr int64_t TILE_DEPTH = 2 * TILE_WORDS;  // numbers of bfloat16 of a row

// The compiler doesn't know which memory an instruction with tiles reads and writes.
inline void see_memory(const void* p) { asm volatile("" ::"r"(p) : "memory"); }

// A thread's tiles for sums over k numbers, while the object lives: 0 to 3 have sums, 4 and 5 rows
// of A and words of B, 6 and 7 the same of the last k % `TILE_DEPTH` numbers.
class Tiles {
  struct alignas(64) Shapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};  // of a row
    uint8_t rows[16] = {};
  };

 public:
  explicit Tiles(int64_t k) {
    int64_t last = (k % TILE_DEPTH + 1) / 2;
    Shapes shapes;
    for (int t = 0; t < 8; t++) {
      shapes.bytes[t] = uint16_t(4 * (last && t == 6 ? last : TILE_WORDS));
      shapes.rows[t] = uint8_t(last && t == 7 ? last : TILE_ROWS);
    }
    see_memory(&shapes);
    _tile_loadconfig(&shapes);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// DO(v) for v below NV. A tile's number is part of an instruction, so it must be a literal.
#define ITERA_EACH_TILE(NV, DO)    \
  DO(0)                            \
  if constexpr (NV > 1) { DO(1) }  \
  if constexpr (NV > 2) { DO(2) }  \
  if constexpr (NV > 3) { DO(3) }

// sums (16, NV tiles) = A (16, k) B: rows of A ``stride`` numbers apart; of B the words of NV
// vectors of columns, one k after the other. A needs a number, such as 0, behind an odd k.
template <int NV>
inline __attribute__((always_inline)) void multiply_tiles(const uint16_t* a, int64_t stride,
                                                          const uint16_t* b, int64_t k,
                                                          float* sums) {
  constexpr int64_t BYTES = 4 * TILE_WORDS * NV;  // from a word to the next
  see_memory(a);
#define ITERA_CLEAR(v) _tile_zero(v);
#define ITERA_MULTIPLY(v)                      \
  _tile_loadd(5, b + v * TILE_DEPTH, BYTES);   \
  _tile_dpbf16ps(v, 4, 5);
#define ITERA_MULTIPLY_LAST(v)                 \
  _tile_loadd(7, b + v * TILE_DEPTH, BYTES);   \
  _tile_dpbf16ps(v, 6, 7);
#define ITERA_STORE(v) _tile_stored(v, sums + v * TILE_WORDS, BYTES);
  ITERA_EACH_TILE(NV, ITERA_CLEAR)
  int64_t p = 0;
  for (; p + TILE_DEPTH <= k; p += TILE_DEPTH, a += TILE_DEPTH, b += NV * TILE_DEPTH * TILE_ROWS) {
    _tile_loadd(4, a, 2 * stride);
    ITERA_EACH_TILE(NV, ITERA_MULTIPLY)
  }
  if (p < k) {
    _tile_loadd(6, a, 2 * stride);
    ITERA_EACH_TILE(NV, ITERA_MULTIPLY_LAST)
  }
  ITERA_EACH_TILE(NV, ITERA_STORE)
  see_memory(sums);
#undef ITERA_CLEAR
#undef ITERA_MULTIPLY
#undef ITERA_MULTIPLY_LAST
#undef ITERA_STORE
}

}  // namespace itera
#endif
