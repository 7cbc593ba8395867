// Matrix products with sums in float32, of float32 or, with AVX512-BF16, of bfloat16: the core,
// for one thread.
//
// C (m, n) = A (m, k) B (k, n). How to call it, for numbers of type T:
//
//   std::vector<T> b(packed_size<T>(k, n));
//   pack_transposed(w, ldw, n, k, b.data());       // B is the transpose of w (n, k)
//   pack(rows, k, n, b.data());                    // or B is a matrix of k rows
//   gemm(m, n, k, rows, b.data(), Store{c, ldc});
//
// ``rows`` is any callable: rows(i) points to row i of A, k contiguous numbers. `Rows` is the plain
// one; one that looks up an index makes a product of gathered rows without a copy. The last
// argument receives the sums of a tile's row and decides what becomes of them: see `Store`.
// A product over rows, C (m, n) = Y^T X with Y (k, m) and X (k, n): `transpose` Y into plain rows,
// `pack` X. Any size is allowed. A sum runs over k in order, whatever m and n, so a row of C
// doesn't depend on the other rows.
//
// A packed B and the transposed rows hold words of 32 bits: a float, or two numbers of bfloat16
// that are consecutive in k, as the instructions take them, those of vectors and those of tiles
// (amx.h) alike.
#pragma once

#include <type_traits>

#include "amx.h"
#include "common.h"

namespace itera {

#ifdef __AVX512BF16__
constexpr bool HAVE_BF16 = true;
#else
constexpr bool HAVE_BF16 = false;
#endif

// Vectors of columns of B that are packed together, a panel: with `TILE` rows of C, their sums take
// all but a few of the registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int WIDE = 4;
#else
constexpr int WIDE = 2;
#endif
constexpr int64_t PANEL = WIDE * LANES;  // columns
constexpr int64_t TILE = 6;              // rows of C at a time

template <typename T> constexpr int64_t DEPTH = 4 / sizeof(T);  // numbers of a word
// Words that hold k numbers.
template <typename T> inline int64_t words(int64_t k) { return (k + DEPTH<T> - 1) / DEPTH<T>; }

template <typename T> struct Rows {
  const T* data;
  int64_t stride;
  const T* operator()(int64_t i) const { return data + i * stride; }
};
template <typename T> Rows(const T*, int64_t) -> Rows<T>;
template <typename T> Rows(T*, int64_t) -> Rows<T>;

// Memory of a thread that is kept from call to call.
template <typename T> class Buffer {
  std::vector<T> memory;
  static constexpr int64_t LINE = 64 / sizeof(T);

 public:
  T* get(int64_t n) {  // at least n numbers, at the start of a cache line
    if (int64_t(memory.size()) < n + LINE) memory.resize(n + LINE);
    return (T*)((uintptr_t(memory.data()) + 63) / 64 * 64);
  }
};

// Numbers in a packed B: panels of (words of k, columns), each a multiple of `LANES` columns wide.
template <typename T> inline int64_t packed_size(int64_t k, int64_t n) {
  return words<T>(k) * DEPTH<T> * ((n + LANES - 1) / LANES * LANES);
}
// Vectors of the panel that begins at column j.
inline int vectors_at(int64_t j, int64_t n) {
  return n - j >= PANEL ? WIDE : int((n - j + LANES - 1) / LANES);
}

// Calls f(v, at) for each of a tile's NV vectors of columns; ``at`` loads and stores it, of the
// last one only ``last`` columns.
template <int NV, typename F>
inline __attribute__((always_inline)) void each(int64_t last, const F& f) {
#pragma GCC unroll 4
  for (int v = 0; v + 1 < NV; v++) f(v, Whole{});
#ifndef __AVX512F__  // where a part is as fast
  if (last == LANES) f(NV - 1, Whole{});
  else
#endif
    f(NV - 1, Part{last});
}

// What to do with the sums. operator(): row i, columns from j on, a vector for each `LANES` of
// them; of the last vector only ``last`` columns are in C.
template <typename T> struct Store {
  T* c;
  int64_t stride;
  bool add = false;  // C += A B
  template <int NV>
  void operator()(int64_t i, int64_t j, const vec (&sum)[NV], int64_t last) const {
    T* to = c + i * stride + j;
    if (add)
      each<NV>(last, [&](int v, auto at) {
        at.store(to + v * LANES, at.load(to + v * LANES) + sum[v]);
      });
    else each<NV>(last, [&](int v, auto at) { at.store(to + v * LANES, sum[v]); });
  }
};
template <typename T> Store(T*, int64_t) -> Store<T>;
template <typename T> Store(T*, int64_t, bool) -> Store<T>;

// sum += one word of each row, at number p of it, times a row of NV vectors of B. ODD: of two
// numbers the row has only the first.
template <bool ODD, int MR, int NV>
inline __attribute__((always_inline)) void multiply(vec (&sum)[MR][NV], const float* const (&a)[MR],
                                                    int64_t p, const float* b) {
  vec column[NV];
#pragma GCC unroll 4
  for (int v = 0; v < NV; v++) column[v] = get(b + v * LANES);
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
    vec x = splat(a[r][p]);
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) sum[r][v] += x * column[v];
  }
}
#ifdef __AVX512BF16__
template <bool ODD, int MR, int NV>
inline __attribute__((always_inline)) void multiply(vec (&sum)[MR][NV], const bf16* const (&a)[MR],
                                                    int64_t p, const bf16* b) {
  __m512bh column[NV];
#pragma GCC unroll 4
  for (int v = 0; v < NV; v++) column[v] = (__m512bh)_mm512_loadu_si512(b + 32 * v);
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
    int32_t word = a[r][p];  // B has a row of zeros behind an odd k
    if (!ODD) std::memcpy(&word, a[r] + p, 4);
    __m512bh x = (__m512bh)_mm512_set1_epi32(word);
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++)
      sum[r][v] = (vec)_mm512_dpbf16_ps((__m512)sum[r][v], x, column[v]);
  }
}
#endif

// A tile: MR rows of A times a panel of NV vectors of columns.
template <int MR, int NV, typename T, typename A, typename S>
inline __attribute__((always_inline)) void tile(const A& row, int64_t i, int64_t j, int64_t k,
                                                const T* b, int64_t last, const S& store) {
  const T* a[MR];
  vec sum[MR][NV];
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
    a[r] = row(i + r);
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) sum[r][v] = vec{};
  }
  int64_t p = 0;
#pragma GCC unroll 2
  for (; p + DEPTH<T> <= k; p += DEPTH<T>, b += DEPTH<T> * LANES * NV)
    multiply<false>(sum, a, p, b);
  if (DEPTH<T> > 1 && p < k) multiply<true>(sum, a, p, b);
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) store(i + r, j, sum[r], last);
}

#ifdef ITERA_AMX
// Rows [begin, end) of C, `TILE_ROWS` at a time. A tile is loaded from rows at equal distances, so
// other rows of A are copied first, and so are fewer than `TILE_ROWS` and those of an odd length.
template <int NV, typename A, typename S>
void amx_tiles(const A& row, int64_t begin, int64_t end, int64_t j, int64_t k, const bf16* b,
               int64_t last, const S& store) {
  static thread_local Buffer<bf16> copies;
  alignas(64) float sums[TILE_ROWS * NV * LANES];
  const int64_t copy_stride = words<bf16>(k) * 2;
  Tiles configured(k);
  for (int64_t i = begin; i < end; i += TILE_ROWS) {
    const int64_t count = end - i < TILE_ROWS ? end - i : TILE_ROWS;
    const bf16* a = row(i);
    int64_t stride = k;
    bool copied = count < TILE_ROWS || k % 2;
    if constexpr (std::is_same_v<A, Rows<bf16>>) stride = row.stride;
    else copied = true;
    if (copied) {
      bf16* copy = copies.get(TILE_ROWS * copy_stride);
      for (int64_t r = 0; r < count; r++) {
        std::memcpy(copy + r * copy_stride, row(i + r), k * sizeof(bf16));
        if (k % 2) copy[r * copy_stride + k] = 0;
      }
      a = copy;
      stride = copy_stride;
    }
    multiply_tiles<NV>(a, stride, b, k, sums);
    for (int64_t r = 0; r < count; r++) {
      vec sum[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; v++) sum[v] = get(sums + (r * NV + v) * LANES);
      store(i + r, j, sum, last);
    }
  }
}
#endif

// Rows [begin, end) of C, in tiles of `TILE`; the last ones are fewer.
template <int NV, typename T, typename A, typename S>
inline void tiles(const A& row, int64_t begin, int64_t end, int64_t j, int64_t k, const T* b,
                  int64_t last, const S& store) {
#ifdef ITERA_AMX
  if constexpr (std::is_same_v<T, bf16>)
    if (has_tiles()) return amx_tiles<NV>(row, begin, end, j, k, b, last, store);
#endif
  int64_t i = begin;
  for (; i + TILE <= end; i += TILE) tile<TILE, NV>(row, i, j, k, b, last, store);
  if (end - i >= 3) {
    tile<3, NV>(row, i, j, k, b, last, store);
    i += 3;
  }
  if (end - i == 2) tile<2, NV>(row, i, j, k, b, last, store);
  else if (end - i == 1) tile<1, NV>(row, i, j, k, b, last, store);
}

// Rows [begin, end) of C in the panel that begins at column j of n.
template <typename T, typename A, typename S>
inline void panel(const A& row, int64_t begin, int64_t end, int64_t j, int64_t n, int64_t k,
                  const T* b, const S& store) {
  int vectors = vectors_at(j, n);
  int64_t last = n - j < PANEL ? n - j - LANES * (vectors - 1) : LANES;
  if (vectors == 1) tiles<1>(row, begin, end, j, k, b, last, store);
  else if (vectors == 2) tiles<2>(row, begin, end, j, k, b, last, store);
  if constexpr (WIDE > 2) {
    if (vectors == 3) tiles<3>(row, begin, end, j, k, b, last, store);
    else if (vectors == 4) tiles<4>(row, begin, end, j, k, b, last, store);
  }
}

template <typename T, typename A, typename S>
void gemm(int64_t m, int64_t n, int64_t k, const A& row, const T* packed, const S& store) {
  // Rows of A that stay in the second-level cache while all panels pass: whole tiles of any kind.
  constexpr int64_t MOST = 48;
  int64_t block = (128 * 1024 / (int64_t(sizeof(T)) * k + 1) + MOST) / MOST * MOST;
  for (int64_t begin = 0; begin < m; begin += block) {
    int64_t end = begin + block < m ? begin + block : m;
    const T* b = packed;
    for (int64_t j = 0; j < n; j += PANEL) {
      panel(row, begin, end, j, n, k, b, store);
      b += words<T>(k) * DEPTH<T> * LANES * vectors_at(j, n);
    }
  }
}

// Lanes of `vec` that are taken from two vectors, a and b: in each four lanes the lower two of both
// in turn, or the upper two; the lower or upper half of each four; every other four.
template <int HIGH> struct Single {
  static constexpr int from(int l) { return l / 4 * 4 + 2 * HIGH + l % 4 / 2 + l % 2 * LANES; }
};
template <int HIGH> struct Double {
  static constexpr int from(int l) { return l / 4 * 4 + 2 * HIGH + l % 2 + l % 4 / 2 * LANES; }
};
template <int ODD> struct Fours {
  static constexpr int from(int l) { return l / 4 * 8 + 4 * ODD + l % 4; }
};

// Transposes `LANES` x `LANES` words: those of four rows in each four lanes, then the fours.
inline __attribute__((always_inline)) void transpose(vec (&r)[LANES]) {
  vec t[LANES];
#pragma GCC unroll 16
  for (int i = 0; i < LANES; i += 2) {
    t[i] = picked<Single<0>>(r[i], r[i + 1]);
    t[i + 1] = picked<Single<1>>(r[i], r[i + 1]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < LANES; i += 4)
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
      r[i + 2 * h] = picked<Double<0>>(t[i + h], t[i + 2 + h]);
      r[i + 2 * h + 1] = picked<Double<1>>(t[i + h], t[i + 2 + h]);
    }
#pragma GCC unroll 2
  for (int apart = 4; apart < LANES; apart *= 2)
#pragma GCC unroll 2
    for (int begin = 0; begin < LANES; begin += 2 * apart)
#pragma GCC unroll 8
      for (int i = begin; i < begin + apart; i++) {
        vec even = picked<Fours<0>>(r[i], r[i + apart]);
        r[i + apart] = picked<Fours<1>>(r[i], r[i + apart]);
        r[i] = even;
      }
}

inline vec get_words(const float* p, int64_t n) { return n >= LANES ? get(p) : get(p, n); }

// The words of a row from its number j on; n: the row's numbers.
inline vec words_along(const float* row, const float*, int64_t j, int64_t n) {
  return get_words(row + j, n - j);
}
// `LANES` columns from j on, of n, in the rows of a word.
template <typename R>
inline vec words_down(const R& row, int64_t i, int64_t, int64_t j, int64_t n, const float*) {
  return get_words(row(i) + j, n - j);
}
#ifdef __AVX512BF16__
inline __mmask16 mask16(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1; }
inline __mmask32 mask32(int64_t n) {
  return n >= 32 ? 0xffffffffu : n <= 0 ? 0 : (1u << n) - 1;
}
inline vec words_along(const bf16* row, const bf16*, int64_t j, int64_t n) {
  return (vec)_mm512_maskz_loadu_epi16(mask32(n - j), row + j);
}
inline vec words_along(const float* row, const bf16*, int64_t j, int64_t n) {
  __m512 low = _mm512_maskz_loadu_ps(mask16(n - j), row + j);
  __m512 high = _mm512_maskz_loadu_ps(mask16(n - j - 16), row + j + 16);
  return (vec)_mm512_cvtne2ps_pbh(high, low);
}
// Two rows as 16 pairs of their numbers.
inline vec paired(__m512i both) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                         8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return (vec)_mm512_permutexvar_epi16(order, both);
}
inline vec pairs_of(const bf16* first, const bf16* second, int64_t j, __mmask16 mask) {
  __m256i low = _mm256_maskz_loadu_epi16(mask, first + j);
  __m256i high = second ? _mm256_maskz_loadu_epi16(mask, second + j) : _mm256_setzero_si256();
  return paired(_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
}
inline vec pairs_of(const float* first, const float* second, int64_t j, __mmask16 mask) {
  __m512 low = _mm512_maskz_loadu_ps(mask, first + j);
  __m512 high = second ? _mm512_maskz_loadu_ps(mask, second + j) : _mm512_setzero_ps();
  return paired((__m512i)_mm512_cvtne2ps_pbh(high, low));
}
template <typename R>
inline vec words_down(const R& row, int64_t i, int64_t k, int64_t j, int64_t n, const bf16*) {
  return pairs_of(row(i), i + 1 < k ? row(i + 1) : nullptr, j, mask16(n - j));
}
#endif

inline void put_words(float* p, vec v) { put(p, v); }
inline void put_words(bf16* p, vec v) { put((float*)p, v); }

// Pack B, a matrix of k rows of n numbers: row(i) points to row i, of type T or float.
template <typename T, typename R> void pack(const R& row, int64_t k, int64_t n, T* out) {
  for (int64_t p = 0; p < n; p += PANEL) {
    int64_t end = p + PANEL < n ? p + PANEL : n;
    for (int64_t i = 0; i < k; i += DEPTH<T>)
      for (int64_t j = p; j < end; j += LANES, out += LANES * DEPTH<T>)
        put_words(out, words_down(row, i, k, j, n, out));
  }
}

// Pack B = w^T, where w (n, k) has a stride of ``stride`` numbers, of type T or float.
template <typename T, typename W>
void pack_transposed(const W* w, int64_t stride, int64_t n, int64_t k, T* out) {
  int64_t deep = words<T>(k);
  for (int64_t p = 0; p < n; p += PANEL) {
    int64_t vectors = vectors_at(p, n);
    for (int64_t v = 0; v < vectors; v++)
      for (int64_t i = 0; i < deep; i += LANES) {
        vec r[LANES];
        for (int c = 0; c < LANES; c++) {
          int64_t at = p + LANES * v + c;
          r[c] = at < n ? words_along(w + at * stride, out, DEPTH<T> * i, k) : vec{};
        }
        transpose(r);
        int64_t count = deep - i < LANES ? deep - i : LANES;
        for (int64_t c = 0; c < count; c++)
          put_words(out + DEPTH<T> * LANES * ((i + c) * vectors + v), r[c]);
      }
    out += deep * DEPTH<T> * LANES * vectors;
  }
}

// The stride of the rows that `transpose` makes of k numbers: an odd number of cache lines, so that
// consecutive rows don't compete for the same places of the cache.
template <typename T> inline int64_t transposed_stride(int64_t k) {
  constexpr int64_t LINE = 64 / sizeof(T);
  return ((k + LINE - 1) / LINE | 1) * LINE;
}

constexpr int64_t AHEAD = 32;  // rows that `transpose` asks for before it needs them

// Y (k, n) to rows (n, `transposed_stride`(k)), zero behind column k up to a whole vector: row(i)
// points to row i of Y.
template <typename T, typename R> void transpose(const R& row, int64_t k, int64_t n, T* out) {
  int64_t stride = transposed_stride<T>(k);
  for (int64_t i = 0; i < k; i += LANES * DEPTH<T>)
    for (int64_t j = 0; j < n; j += LANES) {
      vec r[LANES];
      for (int c = 0; c < LANES; c++) {
        int64_t at = i + DEPTH<T> * c;
        r[c] = at < k ? words_down(row, at, k, j, n, out) : vec{};
        for (int64_t later = at + AHEAD; later < at + AHEAD + DEPTH<T>; later++)
          if (later < k) __builtin_prefetch(row(later) + j);
      }
      transpose(r);
      for (int64_t c = 0; c < LANES && j + c < n; c++) put_words(out + (j + c) * stride + i, r[c]);
    }
}

constexpr int64_t COLUMNS = 96;  // of a gradient that are transposed at a time

// dw (n, k) = dy^T x, over ``rows`` rows, or with ``add`` dw += that.
template <typename T>
void weight_grad(const T* dy, const T* x, float* dw, int64_t rows, int64_t n, int64_t k,
                 bool add = false) {
  static thread_local Buffer<T> turned, packed;
  T* b = packed.get(packed_size<T>(rows, k));
  int64_t stride = transposed_stride<T>(rows);
  T* a = turned.get(COLUMNS * stride);
  pack(Rows{x, k}, rows, k, b);
  for (int64_t begin = 0; begin < n; begin += COLUMNS) {
    int64_t count = n - begin < COLUMNS ? n - begin : COLUMNS;
    transpose(Rows{dy + begin, n}, rows, count, a);
    gemm(count, k, rows, Rows{a, stride}, b, Store{dw + begin * k, k, add});
  }
}

}  // namespace itera
