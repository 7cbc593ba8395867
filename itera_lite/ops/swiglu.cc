// The gate of a SwiGLU feed-forward, as an operation of its own.
#include "swiglu.h"

using namespace itera;

#define GATED_SILU(T, S)                                                                          \
  extern "C" void gated_silu_##S(const T* gu, T* y, int64_t rows, int64_t f) {                    \
    gated_silu(gu, y, rows, f);                                                                   \
  }                                                                                               \
  extern "C" void gated_silu_grad_##S(const T* gu, const T* dy, T* dgu, int64_t rows,             \
                                      int64_t f) {                                                \
    gated_silu_grad(gu, dy, dgu, rows, f);                                                        \
  }
ITERA_TYPES(GATED_SILU)
