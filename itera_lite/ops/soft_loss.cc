// Cross-entropy mixed with the divergence from a teacher, and their gradient, in one go.
#include "common.h"

using namespace itera;

namespace {

constexpr float TINY = 1e-30f;  // for a remainder that underflowed

// e[i] = exp(z[i] * inverse - shift); returns the sum.
inline float exponentials(const float* z, float* e, int64_t v, float inverse, float shift) {
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < v; i++) {
    e[i] = fast_exp(z[i] * inverse - shift);
    total += e[i];
  }
  return total;
}

}  // namespace

// logits (rows, V) -> the gradient of (1 - mix) hard + mix T^2 soft, in place. A row's teacher
// has k different ids and their probabilities at temperature T; what they lack of 1 is one more
// outcome, 'any other token'. A row whose first probability is 0 has no teacher: hard alone.
extern "C" void soft_cross_entropy(float* logits, const int64_t* target, const int32_t* ids,
                                   const float* probs, float* hard, float* total_loss, int64_t rows,
                                   int64_t v, int64_t k, float inverse_scaling, float temperature,
                                   float mix) {
  std::vector<float> buffer(3 * v + k);
  float* z = buffer.data();
  float* e = z + v;        // exp at temperature 1
  float* warm = e + v;     // and at T
  float* kept = warm + v;  // those of the teacher's ids
  for (int64_t r = 0; r < rows; r++) {
    float* a = logits + r * v;
    const int32_t* id = ids + r * k;
    const float* p = probs + r * k;
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < v; i++) {
      z[i] = a[i] * inverse_scaling;
      top = z[i] > top ? z[i] : top;
    }
    const float sum = exponentials(z, e, v, 1.0f, top);
    hard[r] = std::log(sum) + top - z[target[r]];
    const bool taught = p[0] > 0;
    const float share = taught ? mix : 0.0f;
    const float plain = (1 - share) * inverse_scaling / sum;
    total_loss[r] = (1 - share) * hard[r];
    if (!taught) {
#pragma omp simd
      for (int64_t i = 0; i < v; i++) e[i] *= plain;
    } else {
      float* w = e;
      float all = sum;
      if (temperature != 1.0f) {
        w = warm;
        all = exponentials(z, w, v, 1 / temperature, top / temperature);
      }
      // The rest is summed by itself: the difference from `all` would lose its digits.
      float rest = all, known = 0;
      for (int64_t j = 0; j < k; j++) {
        kept[j] = w[id[j]];
        rest -= kept[j];
        known += p[j];
      }
      if (rest < 1e-2f * all) {
        for (int64_t j = 0; j < k; j++) w[id[j]] = 0;
        rest = 0;
#pragma omp simd reduction(+ : rest)
        for (int64_t i = 0; i < v; i++) rest += w[i];
        for (int64_t j = 0; j < k; j++) w[id[j]] = kept[j];
      }
      const float other = known < 1 ? 1 - known : 0.0f;
      const float q_rest = rest / all;
      float soft = other > 0 ? other * std::log(other / (q_rest + TINY)) : 0.0f;
      const float log_all = std::log(all);
      for (int64_t j = 0; j < k; j++)
        if (p[j] > 0)
          soft += p[j] * (std::log(p[j]) + log_all - (z[id[j]] - top) / temperature);
      total_loss[r] += share * temperature * temperature * soft;
      // d soft / d z: (q - p) / T at the teacher's ids, q (1 - other / q_rest) / T elsewhere.
      // Where the teacher's probabilities are rounded to more than 1 together, so is q.
      const float scale = share * temperature * inverse_scaling;
      const float outside = scale * (known + other - other / (q_rest + TINY)) / all;
      if (w == e) {
        for (int64_t j = 0; j < k; j++) kept[j] = e[id[j]];
#pragma omp simd
        for (int64_t i = 0; i < v; i++) e[i] *= plain + outside;
      } else {
#pragma omp simd
        for (int64_t i = 0; i < v; i++) e[i] = e[i] * plain + w[i] * outside;
      }
      for (int64_t j = 0; j < k; j++) {
        const float q = kept[j] / all;
        const float hot = w == e ? q * all * plain : fast_exp(z[id[j]] - top) * plain;
        e[id[j]] = hot + scale * ((known + other) * q - p[j]);
      }
    }
    e[target[r]] -= (1 - share) * inverse_scaling;
#pragma omp simd
    for (int64_t i = 0; i < v; i++) a[i] = e[i];
  }
}
