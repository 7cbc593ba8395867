// Muon: momentum, orthogonalisation and update of each matrix of a stack while it is in the cache.
//
// `itera_lite.train.optim` defines it in PyTorch and is the oracle of the tests.
#include "gemm.h"

using namespace itera;

namespace {

struct Step {  // the same order as in muon.py
  int64_t rows, columns, iterations;
  const float* coefficients;  // (iterations, 3)
  float clip, momentum, rate, keep;
};

#ifdef __AVX512BF16__

// P = c S^2 + b S, from the sums of S^2.
struct StorePolynomial {
  bf16* p;
  const bf16* square;
  int64_t stride;
  float b, c;
  template <int NV> void operator()(int64_t i, int64_t j, const __m512 (&v)[NV],
                                    __mmask16 last) const {
    int64_t at = i * stride + j;
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) {
      __mmask16 mask = n + 1 < NV ? __mmask16(0xffff) : last;
      vec sum = b * widen(_mm256_maskz_loadu_epi16(mask, square + at + 16 * n)) + c * (vec)v[n];
      _mm256_mask_storeu_epi16(p + at + 16 * n, mask, (__m256i)_mm512_cvtneps_pbh((__m512)sum));
    }
  }
  static vec widen(__m256i x) { return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16); }
};

// X = a X + P X, from the sums of P X.
struct StoreNext {
  bf16* next;
  const bf16* x;
  int64_t stride;
  float a;
  template <int NV> void operator()(int64_t i, int64_t j, const __m512 (&v)[NV],
                                    __mmask16 last) const {
    int64_t at = i * stride + j;
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) {
      __mmask16 mask = n + 1 < NV ? __mmask16(0xffff) : last;
      vec sum = a * StorePolynomial::widen(_mm256_maskz_loadu_epi16(mask, x + at + 16 * n));
      sum += (vec)v[n];
      _mm256_mask_storeu_epi16(next + at + 16 * n, mask, (__m256i)_mm512_cvtneps_pbh((__m512)sum));
    }
  }
};

// The same in the last iteration: W = keep W - rate X.
struct StoreWeight {
  float* w;
  const bf16* x;
  int64_t stride;
  float a, keep, rate;
  template <int NV> void operator()(int64_t i, int64_t j, const __m512 (&v)[NV],
                                    __mmask16 last) const {
    int64_t at = i * stride + j;
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) {
      __mmask16 mask = n + 1 < NV ? __mmask16(0xffff) : last;
      vec sum = a * StorePolynomial::widen(_mm256_maskz_loadu_epi16(mask, x + at + 16 * n));
      sum += (vec)v[n];
      vec old = (vec)_mm512_maskz_loadu_ps(mask, w + at + 16 * n);
      _mm512_mask_storeu_ps(w + at + 16 * n, mask, (__m512)(keep * old - rate * sum));
    }
  }
};

// Copies the upper triangle of a (d, d) into the lower one, blocks of 16 x 16 at a time.
void mirror(bf16* a, int64_t d) {
  for (int64_t i = 0; i < d; i += 16)
    for (int64_t j = i + 16; j < d; j += 16) {  // the block at i, j to j, i
      __m512i r[16];
      for (int c = 0; c < 16; c++)
        r[c] = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask16(d - j), a + (i + c) * d + j));
      transpose16(r);
      for (int64_t c = 0; c < 16 && j + c < d; c++)
        _mm256_storeu_si256((__m256i*)(a + (j + c) * d + i), _mm512_cvtepi32_epi16(r[c]));
    }
}

// A symmetric product (d, d): of each panel only the rows down to the diagonal, the rest mirrored.
template <typename Store>
void symmetric(int64_t d, int64_t k, const Rows& row, const bf16* packed, const Store& store,
               bf16* result) {
  for (int64_t j = 0; j < d; j += PANEL) {
    int64_t vectors = d - j >= PANEL ? 4 : (d - j + 15) / 16;
    int64_t end = j + PANEL < d ? j + PANEL : d;
    __mmask16 last = mask16(d - j - 16 * (vectors - 1));
    switch (vectors) {
      case 4: tiles<4>(row, 0, end, j, k, packed, last, store); break;
      case 3: tiles<3>(row, 0, end, j, k, packed, last, store); break;
      case 2: tiles<2>(row, 0, end, j, k, packed, last, store); break;
      default: tiles<1>(row, 0, end, j, k, packed, last, store);
    }
    packed += (k + 1) / 2 * 32 * vectors;
  }
  if (d > PANEL) mirror(result, d);
}

// The momentum's update; x (rows, columns): gradient and momentum together, of norm 1.
void start(const Step& s, const float* gradient, float* momentum, bf16* x) {
  int64_t size = s.rows * s.columns;
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < size; i++) {
    float g = s.clip * gradient[i], m = momentum[i] + (1 - s.momentum) * (g - momentum[i]);
    momentum[i] = m;
    g += s.momentum * (m - g);
    total += g * g;
  }
  float inverse = 1.0f / (std::sqrt(total) + 1e-7f);
#pragma omp simd
  for (int64_t i = 0; i < size; i++) {
    float g = s.clip * gradient[i];
    x[i] = store<bf16>((g + s.momentum * (momentum[i] - g)) * inverse);
  }
}

struct Buffers {
  bf16 *x, *next, *rows, *packed, *square, *p;
};

void update(const Step& s, const Buffers& k, float* w, const float* gradient, float* momentum) {
  const int64_t m = s.rows, n = s.columns, d = m < n ? m : n;
  const bool tall = m > n;
  bf16 *x = k.x, *next = k.next;
  start(s, gradient, momentum, x);
  for (int64_t i = 0; i < s.iterations; i++) {
    float a = s.coefficients[3 * i], b = s.coefficients[3 * i + 1], c = s.coefficients[3 * i + 2];
    Rows plain{x, n};
    if (tall) {
      transpose(plain, m, n, k.rows);
      pack(plain, m, n, k.packed);
      symmetric(d, m, Rows{k.rows, transposed_stride(m)}, k.packed, StoreBf16{k.square, d},
                k.square);
    } else {
      pack_transposed(x, n, m, n, k.packed);
      symmetric(d, n, plain, k.packed, StoreBf16{k.square, d}, k.square);
    }
    if (i == 0) {  // the largest singular value is at most the root of the square's norm
      float norm = 0, trace = 0;
#pragma omp simd reduction(+ : norm)
      for (int64_t e = 0; e < d * d; e++) norm += load(k.square[e]) * load(k.square[e]);
      for (int64_t e = 0; e < d; e++) trace += load(k.square[e * d + e]);
      float scale = trace / (std::sqrt(norm) + 1e-30f), root = std::sqrt(scale);
      a *= root;
      b *= root * scale;
      c *= root * scale * scale;
    }
    Rows square{k.square, d}, p{k.p, d};
    pack(square, d, d, k.packed);
    symmetric(d, d, square, k.packed, StorePolynomial{k.p, k.square, d, b, c}, k.p);
    if (tall) pack(p, d, d, k.packed);
    else pack(plain, m, n, k.packed);
    const Rows& left = tall ? plain : p;
    if (i + 1 < s.iterations) gemm(m, n, d, left, k.packed, StoreNext{next, x, n, a});
    else gemm(m, n, d, left, k.packed, StoreWeight{w, x, n, a, s.keep, s.rate});
    std::swap(x, next);
  }
}

#endif

}  // namespace

// weights, gradients: the addresses of ``count`` matrices (rows, columns); momentum: a stack.
// Returns whether this processor can do it; where it can't, nothing was done.
extern "C" int64_t muon(const int64_t* weights, const int64_t* gradients, float* momentum,
                        int64_t count, const Step* step) {
#ifdef __AVX512BF16__
  const Step& s = *step;
  int64_t size = s.rows * s.columns, d = s.rows < s.columns ? s.rows : s.columns;
  int64_t packed = packed_size(s.columns, s.rows);
  for (int64_t other : {packed_size(s.rows, s.columns), packed_size(d, d)})
    packed = other > packed ? other : packed;
  int64_t rows = s.columns * transposed_stride(s.rows);
  static thread_local Buffer memory;
  auto lines = [](int64_t numbers) { return (numbers + 31) / 32 * 32; };
  bf16* free = memory.get(2 * lines(size) + lines(rows) + lines(packed) + 2 * lines(d * d));
  auto take = [&](int64_t numbers) { return std::exchange(free, free + lines(numbers)); };
  Buffers k{take(size), take(size), take(rows), take(packed), take(d * d), take(d * d)};
  for (int64_t i = 0; i < count; i++)
    update(s, k, (float*)weights[i], (const float*)gradients[i], momentum + i * size);
  return 1;
#else
  return 0;
#endif
}
