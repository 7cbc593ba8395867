// Linear layers: a packed weight, the product with it, and the gradients.
#include "gemm.h"

using namespace itera;

// Whether the library has the functions of bfloat16, here and elsewhere.
extern "C" int64_t has_bf16() { return HAVE_BF16; }

// Whether products of bfloat16 are those of tiles.
extern "C" int64_t has_amx() {
#ifdef ITERA_AMX
  return has_tiles();
#else
  return 0;
#endif
}

namespace {

template <typename T> struct StoreWithBias {
  T* y;
  int64_t stride;
  const float* bias;
  template <int NV>
  void operator()(int64_t i, int64_t j, const vec (&sum)[NV], int64_t last) const {
    T* to = y + i * stride + j;
    const float* from = bias + j;
    each<NV>(last, [&](int v, auto at) {
      at.store(to + v * LANES, sum[v] + at.load(from + v * LANES));
    });
  }
};

// ``count`` weights (n, k), each in the order of x w^T (``forward``) and of dy w (``backward``);
// null: not wanted.
template <typename T>
void pack_weights(const float* w, T* forward, T* backward, int64_t count, int64_t n, int64_t k) {
  for (int64_t e = 0; e < count; e++, w += n * k) {
    pack_transposed(w, k, n, k, forward + e * packed_size<T>(k, n));
    if (backward) pack(Rows{w, k}, n, k, backward + e * packed_size<T>(n, k));
  }
}

// y (rows, n) = x (rows, k) w^T + bias (n), which may be null.
template <typename T>
void linear(const T* x, const T* forward, const float* bias, T* y, int64_t rows, int64_t n,
            int64_t k) {
  if (bias) gemm(rows, n, k, Rows{x, k}, forward, StoreWithBias<T>{y, n, bias});
  else gemm(rows, n, k, Rows{x, k}, forward, Store{y, n});
}

// From dy (rows, n): dx (rows, k), dw (n, k), dbias (n); null: not wanted.
template <typename T>
void linear_grad(const T* dy, const T* x, const T* backward, T* dx, float* dw, float* dbias,
                 int64_t rows, int64_t n, int64_t k) {
  if (dx) gemm(rows, k, n, Rows{dy, n}, backward, Store{dx, k});
  if (dw) weight_grad(dy, x, dw, rows, n, k);
  if (dbias) {
    std::memset(dbias, 0, n * sizeof(float));
    for (int64_t r = 0; r < rows; r++)
#pragma omp simd
      for (int64_t i = 0; i < n; i++) dbias[i] += load(dy[r * n + i]);
  }
}

// From the gradient dy (rows, n) of a router's logits: dw (n, k), and what is added to
// dx (rows, k).
template <typename T>
void router_grad(const float* dy, const T* x, const T* backward, T* dx, float* dw, int64_t rows,
                 int64_t n, int64_t k) {
  static thread_local Buffer<T> rounded;
  T* dlogits = rounded.get(rows * n);
  columns(rows * n, [&](int64_t i, auto at) { at.store(dlogits + i, at.load(dy + i)); });
  gemm(rows, k, n, Rows{dlogits, n}, backward, Store{dx, k, true});
  weight_grad(dlogits, x, dw, rows, n, k);
}

}  // namespace

// packed_size: numbers in a packed weight, in the order of either product.
// router: the logits y (rows, n) = x (rows, k) w^T, not rounded.
#define LINEAR(T, S)                                                                              \
  extern "C" int64_t packed_size_##S(int64_t k, int64_t n) { return packed_size<T>(k, n); }       \
  extern "C" void pack_weights_##S(const float* w, T* forward, T* backward, int64_t count,        \
                                   int64_t n, int64_t k) {                                        \
    pack_weights(w, forward, backward, count, n, k);                                              \
  }                                                                                               \
  extern "C" void linear_##S(const T* x, const T* forward, const float* bias, T* y, int64_t rows, \
                             int64_t n, int64_t k) {                                              \
    linear(x, forward, bias, y, rows, n, k);                                                      \
  }                                                                                               \
  extern "C" void linear_grad_##S(const T* dy, const T* x, const T* backward, T* dx, float* dw,   \
                                  float* dbias, int64_t rows, int64_t n, int64_t k) {             \
    linear_grad(dy, x, backward, dx, dw, dbias, rows, n, k);                                      \
  }                                                                                               \
  extern "C" void router_##S(const T* x, const T* forward, float* y, int64_t rows, int64_t n,     \
                             int64_t k) {                                                         \
    gemm(rows, n, k, Rows{x, k}, forward, Store{y, n});                                           \
  }                                                                                               \
  extern "C" void router_grad_##S(const float* dy, const T* x, const T* backward, T* dx,          \
                                  float* dw, int64_t rows, int64_t n, int64_t k) {                \
    router_grad(dy, x, backward, dx, dw, rows, n, k);                                             \
  }
ITERA_TYPES(LINEAR)
