// RMSNorm, alone or with the sum into the residual stream before it.
#include "common.h"

using namespace itera;

namespace {

// x += scale * add first, where ``add`` is given (the residual stream), then the norm.
template <typename X, typename Y>
void rms_norm(const X* x, const Y* add, float scale, const float* w, X* sum, Y* y, float* rstd,
              int64_t rows, int64_t d, float eps) {
  for (int64_t r = 0; r < rows; r++) {
    const X* a = x + r * d;
    if (add) {
      const Y* b = add + r * d;
      X* o = sum + r * d;
#pragma omp simd
      for (int64_t i = 0; i < d; i++) o[i] = store<X>(load(a[i]) + scale * load(b[i]));
      a = o;
    }
    float ss = 0;
#pragma omp simd reduction(+ : ss)
    for (int64_t i = 0; i < d; i++) ss += load(a[i]) * load(a[i]);
    float s = 1.0f / std::sqrt(ss / float(d) + eps);
    rstd[r] = s;
#pragma omp simd
    for (int64_t i = 0; i < d; i++) y[r * d + i] = store<Y>(load(a[i]) * s * w[i]);
  }
}

// x: what was normalised. dsum: the gradient that reaches it past the norm, or null.
// dx: its whole gradient; dadd: scale times that, where given.
template <typename X, typename Y>
void rms_norm_grad(const X* x, const float* w, const float* rstd, const Y* dy, const X* dsum,
                   float scale, X* dx, Y* dadd, float* dw, int64_t rows, int64_t d) {
  for (int64_t r = 0; r < rows; r++) {
    const X* a = x + r * d;
    const Y* g = dy + r * d;
    X* o = dx + r * d;
    float s = rstd[r], dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < d; i++) dot += load(g[i]) * w[i] * load(a[i]);
    float c = dot * s * s * s / float(d);
#pragma omp simd
    for (int64_t i = 0; i < d; i++) {
      float gi = load(g[i]), xi = load(a[i]);
      dw[i] += gi * xi * s;
      o[i] = store<X>(gi * w[i] * s - xi * c);
    }
    if (dsum)
#pragma omp simd
      for (int64_t i = 0; i < d; i++) o[i] = store<X>(load(o[i]) + load(dsum[r * d + i]));
    if (dadd)
#pragma omp simd
      for (int64_t i = 0; i < d; i++) dadd[r * d + i] = store<Y>(scale * load(o[i]));
  }
}

}  // namespace

#define NORM(X, Y, S)                                                                             \
  extern "C" void rms_norm_##S(const X* x, const Y* add, float scale, const float* w, X* sum,     \
                               Y* y, float* rstd, int64_t rows, int64_t d, float eps) {           \
    rms_norm(x, add, scale, w, sum, y, rstd, rows, d, eps);                                       \
  }                                                                                               \
  extern "C" void rms_norm_grad_##S(const X* x, const float* w, const float* rstd, const Y* dy,   \
                                    const X* dsum, float scale, X* dx, Y* dadd, float* dw,        \
                                    int64_t rows, int64_t d) {                                    \
    rms_norm_grad(x, w, rstd, dy, dsum, scale, dx, dadd, dw, rows, d);                            \
  }
NORM(float, float, f32_f32)
NORM(float, bf16, f32_b16)
NORM(bf16, bf16, b16_b16)
NORM(bf16, float, b16_f32)
