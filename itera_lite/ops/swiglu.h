// The gate of a SwiGLU feed-forward.
#pragma once

#include "common.h"

namespace itera {

template <typename T> void gated_silu(const T* gu, T* y, int64_t rows, int64_t f) {
  for (int64_t r = 0; r < rows; r++) {
    const T *g = gu + r * 2 * f, *u = g + f;
    columns(f, [&](int64_t i, auto at) {
      vec a = at.load(g + i);
      at.store(y + r * f + i, a * sigmoid(a) * at.load(u + i));
    });
  }
}

template <typename T>
void gated_silu_grad(const T* gu, const T* dy, T* dgu, int64_t rows, int64_t f) {
  for (int64_t r = 0; r < rows; r++) {
    const T *g = gu + r * 2 * f, *u = g + f;
    T *dg = dgu + r * 2 * f, *du = dg + f;
    columns(f, [&](int64_t i, auto at) {
      vec a = at.load(g + i), s = sigmoid(a), d = at.load(dy + r * f + i);
      at.store(dg + i, d * at.load(u + i) * s * (1.0f + a * (1.0f - s)));
      at.store(du + i, d * a * s);
    });
  }
}

}  // namespace itera
