// Cross-entropy and its gradient in one pass over the logits.
#include "common.h"

using namespace itera;

namespace {

// logits (rows, V) -> their gradient in place; loss[r] in nats.
template <typename T>
void cross_entropy(T* logits, const int64_t* target, float* loss, int64_t rows, int64_t v,
                   float inverse_scaling) {
  std::vector<float> row(v);
  float* e = row.data();
  for (int64_t r = 0; r < rows; r++) {
    T* a = logits + r * v;
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < v; i++) {
      e[i] = load(a[i]) * inverse_scaling;
      top = e[i] > top ? e[i] : top;
    }
    float correct = e[target[r]], total = 0;
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < v; i++) {
      e[i] = fast_exp(e[i] - top);
      total += e[i];
    }
    loss[r] = std::log(total) + top - correct;
    float inv = inverse_scaling / total;
    float at = e[target[r]] * inv - inverse_scaling;
#pragma omp simd
    for (int64_t i = 0; i < v; i++) a[i] = store<T>(e[i] * inv);
    a[target[r]] = store<T>(at);
  }
}

}  // namespace

#define CROSS_ENTROPY(T, S)                                                                       \
  extern "C" void cross_entropy_##S(T* logits, const int64_t* target, float* loss, int64_t rows,  \
                                    int64_t v, float inverse_scaling) {                           \
    cross_entropy(logits, target, loss, rows, v, inverse_scaling);                                \
  }
ITERA_BOTH_TYPES(CROSS_ENTROPY)
