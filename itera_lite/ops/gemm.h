// Matrix products of bfloat16 with sums in float32, by AVX512-BF16: the core, for one thread.
//
// C (m, n) = A (m, k) B (k, n). Without the instructions `HAVE_GEMM` is false and nothing else is
// declared. How to call it:
//
//   std::vector<bf16> b(packed_size(k, n));
//   pack_transposed(w, ldw, n, k, b.data());       // B is the transpose of w (n, k)
//   pack(rows, k, n, b.data());                    // or B is a matrix of k rows
//   gemm(m, n, k, rows, b.data(), StoreBf16{c, ldc});
//
// ``rows`` is any callable: rows(i) points to row i of A, k contiguous numbers. `Rows` is the plain
// one; one that looks up an index makes a product of gathered rows without a copy. The last argument
// receives the sums of a tile's row and decides what becomes of them: see `StoreBf16`.
// A product over rows, C (m, n) = Y^T X with Y (k, m) and X (k, n): `transpose` Y into plain rows,
// `pack` X. Any size is allowed. A sum runs over k in order, whatever m and n, so a row of C doesn't
// depend on the other rows.
#pragma once

#include "common.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace itera {

#ifndef __AVX512BF16__
constexpr bool HAVE_GEMM = false;
#else
constexpr bool HAVE_GEMM = true;

constexpr int64_t PANEL = 64;  // columns of B that are packed together: 4 vectors
constexpr int64_t TILE = 6;    // rows of C at a time: with a panel, 24 sums in registers

struct Rows {
  const bf16* data;
  int64_t stride;
  const bf16* operator()(int64_t i) const { return data + i * stride; }
};

// Memory of a thread that is kept from call to call.
class Buffer {
  std::vector<bf16> memory;

 public:
  bf16* get(int64_t n) {  // at least n numbers, at the start of a cache line
    if (int64_t(memory.size()) < n + 32) memory.resize(n + 32);
    return (bf16*)((uintptr_t(memory.data()) + 63) / 64 * 64);
  }
};

inline __mmask16 mask16(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1; }
inline __mmask32 mask32(int64_t n) {
  return n >= 32 ? 0xffffffffu : n <= 0 ? 0 : (1u << n) - 1;
}

// Numbers in a packed B: panels of (k / 2 pairs, columns, 2), each a multiple of 16 columns wide.
inline int64_t packed_size(int64_t k, int64_t n) { return (k + 1) / 2 * 2 * ((n + 15) / 16 * 16); }

// What to do with the sums. operator(): row i, columns from j on, a vector for each 16; of the last
// vector only ``last`` is in C.
struct StoreBf16 {
  bf16* c;
  int64_t stride;
  template <int NV> void operator()(int64_t i, int64_t j, const __m512 (&v)[NV],
                                    __mmask16 last) const {
    bf16* to = c + i * stride + j;
#pragma GCC unroll 4
    for (int n = 0; n + 1 < NV; n++)
      _mm256_storeu_si256((__m256i*)(to + 16 * n), (__m256i)_mm512_cvtneps_pbh(v[n]));
    _mm256_mask_storeu_epi16(to + 16 * (NV - 1), last, (__m256i)_mm512_cvtneps_pbh(v[NV - 1]));
  }
};

struct StoreFloat {
  float* c;
  int64_t stride;
  bool add = false;  // C += A B
  template <int NV> void operator()(int64_t i, int64_t j, const __m512 (&v)[NV],
                                    __mmask16 last) const {
    float* to = c + i * stride + j;
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) {
      __mmask16 mask = n + 1 < NV ? __mmask16(0xffff) : last;
      __m512 sum = v[n];
      if (add) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, to + 16 * n));
      _mm512_mask_storeu_ps(to + 16 * n, mask, sum);
    }
  }
};

// A tile: MR rows of A times a panel of NV vectors of columns.
template <int MR, int NV, typename A, typename Store>
inline __attribute__((always_inline)) void tile(const A& row, int64_t i, int64_t j, int64_t k,
                                                const bf16* b, __mmask16 last,
                                                const Store& store) {
  const bf16* a[MR];
  __m512 sum[MR][NV];
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
    a[r] = row(i + r);
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) sum[r][v] = _mm512_setzero_ps();
  }
  auto step = [&](auto pair) __attribute__((always_inline)) {
    __m512bh column[NV];
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) column[v] = (__m512bh)_mm512_loadu_si512(b + 32 * v);
    b += 32 * NV;
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
      __m512bh x = (__m512bh)_mm512_set1_epi32(pair(a[r]));
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) sum[r][v] = _mm512_dpbf16_ps(sum[r][v], x, column[v]);
    }
  };
  int64_t p = 0;
#pragma GCC unroll 2
  for (; p + 2 <= k; p += 2)
    step([p](const bf16* x) {
      int32_t both;
      std::memcpy(&both, x + p, 4);
      return both;
    });
  if (p < k) step([p](const bf16* x) { return int32_t(x[p]); });  // B has a row of zeros here
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) store(i + r, j, sum[r], last);
}

// Rows [begin, end) of C, in tiles of `TILE`; the last ones are 4 rows or fewer.
template <int NV, typename A, typename Store>
inline void tiles(const A& row, int64_t begin, int64_t end, int64_t j, int64_t k, const bf16* b,
                  __mmask16 last, const Store& store) {
  int64_t i = begin;
  for (; i + TILE <= end; i += TILE) tile<TILE, NV>(row, i, j, k, b, last, store);
  if (end - i >= 3) {
    tile<3, NV>(row, i, j, k, b, last, store);
    i += 3;
  }
  if (end - i == 2) tile<2, NV>(row, i, j, k, b, last, store);
  else if (end - i == 1) tile<1, NV>(row, i, j, k, b, last, store);
}

template <typename A, typename Store>
void gemm(int64_t m, int64_t n, int64_t k, const A& row, const bf16* packed, const Store& store) {
  // Rows of A that stay in the second-level cache while all panels pass.
  int64_t block = (128 * 1024 / (2 * k + 1) + TILE) / TILE * TILE;
  if (block < 8 * TILE) block = 8 * TILE;
  int64_t pairs = (k + 1) / 2;
  for (int64_t begin = 0; begin < m; begin += block) {
    int64_t end = begin + block < m ? begin + block : m;
    const bf16* b = packed;
    for (int64_t j = 0; j < n; j += PANEL) {
      int64_t vectors = n - j >= PANEL ? 4 : (n - j + 15) / 16;
      __mmask16 last = mask16(n - j - 16 * (vectors - 1));
      switch (vectors) {
        case 4: tiles<4>(row, begin, end, j, k, b, last, store); break;
        case 3: tiles<3>(row, begin, end, j, k, b, last, store); break;
        case 2: tiles<2>(row, begin, end, j, k, b, last, store); break;
        default: tiles<1>(row, begin, end, j, k, b, last, store);
      }
      b += pairs * 32 * vectors;
    }
  }
}

// Columns [j, j + 16) of two rows as 16 pairs; a null row is zeros.
inline __m512i pairs_of(const bf16* first, const bf16* second, int64_t j, __mmask16 mask) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  __m256i low = first ? _mm256_maskz_loadu_epi16(mask, first + j) : _mm256_setzero_si256();
  __m256i high = second ? _mm256_maskz_loadu_epi16(mask, second + j) : _mm256_setzero_si256();
  return _mm512_permutexvar_epi16(order,
                                  _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}
inline __m512i pairs_of(const float* first, const float* second, int64_t j, __mmask16 mask) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  __m512 low = first ? _mm512_maskz_loadu_ps(mask, first + j) : _mm512_setzero_ps();
  __m512 high = second ? _mm512_maskz_loadu_ps(mask, second + j) : _mm512_setzero_ps();
  return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}

// 32 numbers of a row from its column j on.
inline __m512i numbers_of(const bf16* row, int64_t j, int64_t n) {
  return _mm512_maskz_loadu_epi16(mask32(n - j), row + j);
}
inline __m512i numbers_of(const float* row, int64_t j, int64_t n) {
  __m512 low = _mm512_maskz_loadu_ps(mask16(n - j), row + j);
  __m512 high = _mm512_maskz_loadu_ps(mask16(n - j - 16), row + j + 16);
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// Transpose 16 x 16 numbers of 32 bits.
inline void transpose16(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int h = 0; h < 2; h++) {
      r[i + 2 * h] = _mm512_unpacklo_epi64(t[i + h], t[i + 2 + h]);
      r[i + 2 * h + 1] = _mm512_unpackhi_epi64(t[i + h], t[i + 2 + h]);
    }
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// Pack B, a matrix of k rows of n numbers: row(i) points to row i, bf16 or float.
template <typename R> void pack(const R& row, int64_t k, int64_t n, bf16* out) {
  for (int64_t p = 0; p < n; p += PANEL) {
    int64_t end = p + PANEL < n ? p + PANEL : n;
    for (int64_t i = 0; i < k; i += 2) {
      auto first = row(i), second = i + 1 < k ? row(i + 1) : nullptr;
      for (int64_t j = p; j < end; j += 16, out += 32)
        _mm512_storeu_si512(out, pairs_of(first, second, j, mask16(n - j)));
    }
  }
}

// Pack B = w^T, where w (n, k) has a stride of ``stride`` numbers, bf16 or float.
template <typename T>
void pack_transposed(const T* w, int64_t stride, int64_t n, int64_t k, bf16* out) {
  int64_t pairs = (k + 1) / 2;
  for (int64_t p = 0; p < n; p += PANEL) {
    int64_t vectors = n - p >= PANEL ? 4 : (n - p + 15) / 16;
    for (int64_t v = 0; v < vectors; v++)
      for (int64_t i = 0; i < pairs; i += 16) {
        __m512i r[16];
        for (int c = 0; c < 16; c++) {
          int64_t at = p + 16 * v + c;
          r[c] = at < n ? numbers_of(w + at * stride, 2 * i, k) : _mm512_setzero_si512();
        }
        transpose16(r);
        int64_t count = pairs - i < 16 ? pairs - i : 16;
        for (int64_t c = 0; c < count; c++)
          _mm512_storeu_si512(out + 32 * ((i + c) * vectors + v), r[c]);
      }
    out += pairs * 32 * vectors;
  }
}

// The stride of the rows that `transpose` makes of k numbers: an odd number of cache lines, so that
// consecutive rows don't compete for the same places of the cache.
inline int64_t transposed_stride(int64_t k) { return ((k + 31) / 32 | 1) * 32; }

// Y (k, n) to rows (n, `transposed_stride`(k)), zero behind column k up to a multiple of 32: row(i) points to row i of Y.
template <typename R> void transpose(const R& row, int64_t k, int64_t n, bf16* out) {
  int64_t stride = transposed_stride(k);
  for (int64_t i = 0; i < k; i += 32)
    for (int64_t j = 0; j < n; j += 16) {
      __m512i r[16];
      for (int c = 0; c < 16; c++) {
        int64_t at = i + 2 * c;
        r[c] = at < k ? pairs_of(row(at), at + 1 < k ? row(at + 1) : nullptr, j, mask16(n - j))
                      : _mm512_setzero_si512();
      }
      transpose16(r);
      for (int64_t c = 0; c < 16 && j + c < n; c++)
        _mm512_storeu_si512(out + (j + c) * stride + i, r[c]);
    }
}

#endif

}  // namespace itera
