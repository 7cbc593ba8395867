// RMSNorm, alone or with the sum into the residual stream before it.
#include "dropout.h"

using namespace itera;

namespace {

// x += scale * add first, where ``add`` is given (the residual stream), then the norm. Some numbers
// of ``add`` are dropped, if any.
template <bool DROPS, typename X, typename Y>
void rms_norm(const X* x, const Y* add, float scale, Drop drop, const float* w, X* sums, Y* y,
              float* rstd, int64_t rows, int64_t d, float eps) {
  for (int64_t r = 0; r < rows; r++, x += d, y += d) {
    vec squares{};
    const X* a = x;
    if (add) {
      columns(d, [&](int64_t i, auto at) {
        vec more = at.load(add + i);
        if (DROPS) more = drop(more, r * d + i);
        at.store(sums + i, at.load(x + i) + scale * more);
        vec v = at.load(sums + i);  // as it was rounded
        squares += v * v;
      });
      a = sums;
      add += d;
      sums += d;
    } else {
      columns(d, [&](int64_t i, auto at) {
        vec v = at.load(x + i);
        squares += v * v;
      });
    }
    float s = rstd[r] = 1.0f / std::sqrt(sum(squares) / float(d) + eps);
    columns(d, [&](int64_t i, auto at) { at.store(y + i, at.load(a + i) * s * at.load(w + i)); });
  }
}

// x: what was normalised. dsum: the gradient that reaches it past the norm, or null.
// dx: its whole gradient; dadd: scale times that, or 0 where it was dropped, where given.
template <bool DROPS, typename X, typename Y>
void rms_norm_grad(const X* x, const float* w, const float* rstd, const Y* dy, const X* dsum,
                   float scale, Drop drop, X* dx, Y* dadd, float* dw, int64_t rows, int64_t d) {
  std::memset(dw, 0, d * sizeof(float));
  for (int64_t r = 0; r < rows; r++) {
    const X *a = x + r * d, *past = dsum ? dsum + r * d : nullptr;
    const Y* g = dy + r * d;
    X* o = dx + r * d;
    Y* oadd = dadd ? dadd + r * d : nullptr;
    vec dots{};
    columns(d, [&](int64_t i, auto at) {
      dots += at.load(g + i) * at.load(w + i) * at.load(a + i);
    });
    float s = rstd[r], c = sum(dots) * s * s * s / float(d);
    columns(d, [&](int64_t i, auto at) {
      vec gi = at.load(g + i) * s, xi = at.load(a + i);
      at.store(dw + i, at.load(dw + i) + gi * xi);
      vec v = gi * at.load(w + i) - xi * c;
      if (past) v += at.load(past + i);
      at.store(o + i, v);
      if (oadd) at.store(oadd + i, scale * (DROPS ? drop(v, r * d + i) : v));
    });
  }
}

}  // namespace

#define NORM(X, Y, S)                                                                             \
  extern "C" void rms_norm_##S(const X* x, const Y* add, float scale, int64_t key,                \
                               int64_t threshold, const float* w, X* sum, Y* y, float* rstd,      \
                               int64_t rows, int64_t d, float eps) {                              \
    Drop drop{uint32_t(key), uint32_t(threshold)};                                                \
    auto norm = drop ? rms_norm<true, X, Y> : rms_norm<false, X, Y>;                              \
    norm(x, add, scale, drop, w, sum, y, rstd, rows, d, eps);                                     \
  }                                                                                               \
  extern "C" void rms_norm_grad_##S(const X* x, const float* w, const float* rstd, const Y* dy,   \
                                    const X* dsum, float scale, int64_t key, int64_t threshold,   \
                                    X* dx, Y* dadd, float* dw, int64_t rows, int64_t d) {         \
    Drop drop{uint32_t(key), uint32_t(threshold)};                                                \
    auto grad = drop ? rms_norm_grad<true, X, Y> : rms_norm_grad<false, X, Y>;                    \
    grad(x, w, rstd, dy, dsum, scale, drop, dx, dadd, dw, rows, d);                               \
  }
NORM(float, float, f32_f32)
#ifdef __AVX512BF16__
NORM(float, bf16, f32_b16)
NORM(bf16, bf16, b16_b16)
NORM(bf16, float, b16_f32)
#endif
