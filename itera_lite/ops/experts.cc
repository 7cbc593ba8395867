// Tokens to their experts' rows and back, around the experts' batched products.
#include "common.h"

using namespace itera;

namespace {

// Rows of x (T, D) to slots: slot[t*k+j] says where token t goes for its j-th expert.
template <typename T>
void scatter(const T* x, const int64_t* slot, const float* gate, T* out, int64_t tokens, int64_t k,
             int64_t d) {
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t j = 0; j < k; j++) {
      T* o = out + slot[t * k + j] * d;
      if (!gate) {
        std::memcpy(o, x + t * d, d * sizeof(T));
      } else {
        float g = gate[t * k + j];
#pragma omp simd
        for (int64_t i = 0; i < d; i++) o[i] = store<T>(g * load(x[t * d + i]));
      }
    }
}

// The sum of each token's slots, weighted by its gates where given.
template <typename T>
void gather(const T* y, const int64_t* slot, const float* gate, T* out, int64_t tokens, int64_t k,
            int64_t d) {
  for (int64_t t = 0; t < tokens; t++) {
    float row[d];
    for (int64_t i = 0; i < d; i++) row[i] = 0;
    for (int64_t j = 0; j < k; j++) {
      const T* a = y + slot[t * k + j] * d;
      float g = gate ? gate[t * k + j] : 1.0f;
#pragma omp simd
      for (int64_t i = 0; i < d; i++) row[i] += g * load(a[i]);
    }
#pragma omp simd
    for (int64_t i = 0; i < d; i++) out[t * d + i] = store<T>(row[i]);
  }
}

template <typename T>
void gate_grad(const T* y, const int64_t* slot, const T* dout, float* dgate, int64_t tokens,
               int64_t k, int64_t d) {
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t j = 0; j < k; j++) {
      const T* a = y + slot[t * k + j] * d;
      float s = 0;
#pragma omp simd reduction(+ : s)
      for (int64_t i = 0; i < d; i++) s += load(a[i]) * load(dout[t * d + i]);
      dgate[t * k + j] = s;
    }
}

}  // namespace

#define EXPERTS(T, S)                                                                             \
  extern "C" void scatter_##S(const T* x, const int64_t* slot, const float* gate, T* out,         \
                              int64_t tokens, int64_t k, int64_t d) {                             \
    scatter(x, slot, gate, out, tokens, k, d);                                                    \
  }                                                                                               \
  extern "C" void gather_##S(const T* y, const int64_t* slot, const float* gate, T* out,          \
                             int64_t tokens, int64_t k, int64_t d) {                              \
    gather(y, slot, gate, out, tokens, k, d);                                                     \
  }                                                                                               \
  extern "C" void gate_grad_##S(const T* y, const int64_t* slot, const T* dout, float* dgate,     \
                                int64_t tokens, int64_t k, int64_t d) {                           \
    gate_grad(y, slot, dout, dgate, tokens, k, d);                                                \
  }
ITERA_BOTH_TYPES(EXPERTS)
