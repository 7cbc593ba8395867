// Linear layers: a packed weight, the product with it, and the gradients.
#include "gemm.h"

using namespace itera;

// Whether this processor has the instructions, and the library the functions below.
extern "C" int64_t has_gemm() { return HAVE_GEMM; }

#ifdef __AVX512BF16__
namespace {

constexpr int64_t COLUMNS = 96;  // of the gradient that are transposed at a time

struct StoreWithBias {
  StoreBf16 store;
  const float* bias;
  template <int NV> void operator()(int64_t i, int64_t j, const __m512 (&v)[NV],
                                    __mmask16 last) const {
    __m512 sum[NV];
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) {
      __mmask16 mask = n + 1 < NV ? __mmask16(0xffff) : last;
      sum[n] = _mm512_add_ps(v[n], _mm512_maskz_loadu_ps(mask, bias + j + 16 * n));
    }
    store(i, j, sum, last);
  }
};

// Adds the sums to what is there.
struct AddToBf16 {
  StoreBf16 to;
  template <int NV> void operator()(int64_t i, int64_t j, const __m512 (&v)[NV],
                                    __mmask16 last) const {
    const bf16* from = to.c + i * to.stride + j;
    __m512 sum[NV];
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) {
      __mmask16 mask = n + 1 < NV ? __mmask16(0xffff) : last;
      __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from + 16 * n));
      sum[n] = _mm512_add_ps(v[n], (__m512)_mm512_slli_epi32(wide, 16));
    }
    to(i, j, sum, last);
  }
};

// dw (n, k) = dy^T x, over ``rows`` rows.
void weight_grad(const bf16* dy, const bf16* x, float* dw, int64_t rows, int64_t n, int64_t k) {
  static thread_local Buffer turned, packed;
  bf16* b = packed.get(packed_size(rows, k));
  int64_t stride = transposed_stride(rows);
  bf16* a = turned.get(COLUMNS * stride);
  pack(Rows{x, k}, rows, k, b);
  for (int64_t begin = 0; begin < n; begin += COLUMNS) {
    int64_t count = n - begin < COLUMNS ? n - begin : COLUMNS;
    transpose(Rows{dy + begin, n}, rows, count, a);
    gemm(count, k, rows, Rows{a, stride}, b, StoreFloat{dw + begin * k, k});
  }
}

}  // namespace

// Numbers in a packed weight, in the order of either product.
extern "C" int64_t packed_size_b16(int64_t k, int64_t n) { return packed_size(k, n); }

// ``count`` weights (n, k), each in the order of x w^T (``forward``) and of dy w (``backward``).
extern "C" void pack_weights_f32(const float* w, bf16* forward, bf16* backward, int64_t count,
                                 int64_t n, int64_t k) {
  for (int64_t e = 0; e < count; e++, w += n * k) {
    pack_transposed(w, k, n, k, forward + e * packed_size(k, n));
    pack([=](int64_t i) { return w + i * k; }, n, k, backward + e * packed_size(n, k));
  }
}

// y (rows, n) = x (rows, k) w^T + bias (n), which may be null.
extern "C" void linear_b16(const bf16* x, const bf16* forward, const float* bias, bf16* y,
                           int64_t rows, int64_t n, int64_t k) {
  if (bias) gemm(rows, n, k, Rows{x, k}, forward, StoreWithBias{{y, n}, bias});
  else gemm(rows, n, k, Rows{x, k}, forward, StoreBf16{y, n});
}

// From dy (rows, n): dx (rows, k), dw (n, k), dbias (n); null: not wanted.
extern "C" void linear_grad_b16(const bf16* dy, const bf16* x, const bf16* backward, bf16* dx,
                                float* dw, float* dbias, int64_t rows, int64_t n, int64_t k) {
  if (dx) gemm(rows, k, n, Rows{dy, n}, backward, StoreBf16{dx, k});
  if (dw) weight_grad(dy, x, dw, rows, n, k);
  if (dbias) {
    std::memset(dbias, 0, n * sizeof(float));
    for (int64_t r = 0; r < rows; r++)
#pragma omp simd
      for (int64_t i = 0; i < n; i++) dbias[i] += load(dy[r * n + i]);
  }
}

// The logits of a router: y (rows, n) = x (rows, k) w^T, not rounded.
extern "C" void router_b16(const bf16* x, const bf16* forward, float* y, int64_t rows, int64_t n,
                           int64_t k) {
  gemm(rows, n, k, Rows{x, k}, forward, StoreFloat{y, n});
}

// From dy (rows, n): dw (n, k), and what is added to dx (rows, k).
extern "C" void router_grad_b16(const float* dy, const bf16* x, const bf16* backward, bf16* dx,
                                float* dw, int64_t rows, int64_t n, int64_t k) {
  static thread_local Buffer rounded;
  bf16* half = rounded.get(rows * n);
  columns(rows * n, [&](int64_t i, auto at) { at.store(half + i, at.load(dy + i)); });
  gemm(rows, k, n, Rows{half, n}, backward, AddToBf16{{dx, k}});
  weight_grad(half, x, dw, rows, n, k);
}

#endif
