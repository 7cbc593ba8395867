// The gate of a SwiGLU feed-forward.
#include "common.h"

using namespace itera;

namespace {

template <typename T> void gated_silu(const T* gu, T* y, int64_t rows, int64_t f) {
  for (int64_t r = 0; r < rows; r++) {
    const T *g = gu + r * 2 * f, *u = g + f;
#pragma omp simd
    for (int64_t i = 0; i < f; i++) {
      float a = load(g[i]);
      y[r * f + i] = store<T>(a * sigmoid(a) * load(u[i]));
    }
  }
}

template <typename T>
void gated_silu_grad(const T* gu, const T* dy, T* dgu, int64_t rows, int64_t f) {
  for (int64_t r = 0; r < rows; r++) {
    const T *g = gu + r * 2 * f, *u = g + f;
    T *dg = dgu + r * 2 * f, *du = dg + f;
#pragma omp simd
    for (int64_t i = 0; i < f; i++) {
      float a = load(g[i]), s = sigmoid(a), d = load(dy[r * f + i]);
      dg[i] = store<T>(d * load(u[i]) * s * (1.0f + a * (1.0f - s)));
      du[i] = store<T>(d * a * s);
    }
  }
}

}  // namespace

#define GATED_SILU(T, S)                                                                          \
  extern "C" void gated_silu_##S(const T* gu, T* y, int64_t rows, int64_t f) {                    \
    gated_silu(gu, y, rows, f);                                                                   \
  }                                                                                               \
  extern "C" void gated_silu_grad_##S(const T* gu, const T* dy, T* dgu, int64_t rows,             \
                                      int64_t f) {                                                \
    gated_silu_grad(gu, dy, dgu, rows, f);                                                        \
  }
ITERA_BOTH_TYPES(GATED_SILU)
