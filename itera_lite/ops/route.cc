// The router of a mixture of experts.
#include "common.h"

using namespace itera;

namespace {

inline int64_t padded(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// The softmax of ``a``: whole vectors, with -infinity behind the last number.
inline void softmax_row(const float* a, float* p, int64_t padded) {
  float top = -INFINITY;
#pragma omp simd reduction(max : top)
  for (int64_t e = 0; e < padded; e++) top = a[e] > top ? a[e] : top;
  vec total{};
  for (int64_t e = 0; e < padded; e += LANES) {
    vec x = fast_exp(get(a + e) - top);
    total += x;
    put(p + e, x);
  }
  float inverse = 1.0f / sum(total);
  for (int64_t e = 0; e < padded; e += LANES) put(p + e, get(p + e) * inverse);
}

// Top-k of logits (T, E): index and gates (T, k), the softmax over the k; mean (E), the mean of the
// softmax over all experts; pair (T * k), the pairs (token, choice) as token * k + choice, those of
// expert e from start[e] to start[e + 1], in order. Ties go to the lower expert.
void route(const float* logits, int64_t* index, float* gates, int64_t* pair, int64_t* start,
           float* mean, int64_t tokens, int64_t experts, int64_t k) {
  int64_t wide = padded(experts);
  std::vector<float> left(wide, -INFINITY), prob(wide), sums(wide);
  std::vector<float> top(padded(k), -INFINITY), share(padded(k));
  std::vector<int64_t> next(experts);
  for (int64_t e = 0; e <= experts; e++) start[e] = 0;
  for (int64_t t = 0; t < tokens; t++) {
    std::memcpy(left.data(), logits + t * experts, experts * sizeof(float));
    softmax_row(left.data(), prob.data(), wide);
    for (int64_t e = 0; e < wide; e += LANES) put(&sums[e], get(&sums[e]) + get(&prob[e]));
    for (int64_t j = 0; j < k; j++) {
      float best = -INFINITY;
#pragma omp simd reduction(max : best)
      for (int64_t e = 0; e < wide; e++) best = left[e] > best ? left[e] : best;
      int64_t at = 0;
      while (at < experts && left[at] != best) at++;
      if (at == experts) at = j;  // numbers that aren't finite
      index[t * k + j] = at;
      start[at + 1]++;
      top[j] = best;
      left[at] = -INFINITY;
    }
    softmax_row(top.data(), share.data(), padded(k));
    std::memcpy(gates + t * k, share.data(), k * sizeof(float));
  }
  for (int64_t e = 0; e < experts; e++) {
    mean[e] = sums[e] / float(tokens);
    start[e + 1] += start[e];
    next[e] = start[e];
  }
  for (int64_t i = 0; i < tokens * k; i++) pair[next[index[i]]++] = i;
}

void route_grad(const float* logits, const int64_t* index, const float* gates,
                const float* dgates, const float* dmean, float* dlogits, int64_t tokens,
                int64_t experts, int64_t k) {
  int64_t wide = padded(experts);
  std::vector<float> row(wide, -INFINITY), prob(wide), dmeans(wide), grad(wide);
  for (int64_t e = 0; e < experts; e++) dmeans[e] = dmean[e] / float(tokens);
  for (int64_t t = 0; t < tokens; t++) {
    std::memcpy(row.data(), logits + t * experts, experts * sizeof(float));
    softmax_row(row.data(), prob.data(), wide);
    vec all{};
    for (int64_t e = 0; e < wide; e += LANES) all += get(&prob[e]) * get(&dmeans[e]);
    float dot = sum(all);
    for (int64_t e = 0; e < wide; e += LANES)
      put(&grad[e], get(&prob[e]) * (get(&dmeans[e]) - dot));
    dot = 0;
    for (int64_t j = 0; j < k; j++) dot += gates[t * k + j] * dgates[t * k + j];
    for (int64_t j = 0; j < k; j++)
      grad[index[t * k + j]] += gates[t * k + j] * (dgates[t * k + j] - dot);
    std::memcpy(dlogits + t * experts, grad.data(), experts * sizeof(float));
  }
}

}  // namespace

extern "C" void route_f32(const float* logits, int64_t* index, float* gates, int64_t* pair,
                          int64_t* start, float* mean, int64_t tokens, int64_t experts,
                          int64_t k) {
  route(logits, index, gates, pair, start, mean, tokens, experts, k);
}
extern "C" void route_grad_f32(const float* logits, const int64_t* index, const float* gates,
                               const float* dgates, const float* dmean, float* dlogits,
                               int64_t tokens, int64_t experts, int64_t k) {
  route_grad(logits, index, gates, dgates, dmean, dlogits, tokens, experts, k);
}
