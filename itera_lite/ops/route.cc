// The router of a mixture of experts.
#include "common.h"

using namespace itera;

namespace {

// Top-k of logits (T, E): index and gates (T, k), the softmax over the k; counts (E) of the
// pairs of each expert; mean (E), the mean of the softmax over all experts; slot (T, k), the
// place of a pair when every expert has the same room for its pairs. Returns that room: the
// largest count, rounded up so that few sizes occur (each costs the matrix library a set-up).
// Ties go to the lower expert.
constexpr int64_t ROOM = 64;

inline void softmax_row(const float* a, float* p, int64_t n) {
  float top = a[0], total = 0;
  for (int64_t e = 1; e < n; e++) top = a[e] > top ? a[e] : top;
#pragma omp simd reduction(+ : total)
  for (int64_t e = 0; e < n; e++) {
    p[e] = fast_exp(a[e] - top);
    total += p[e];
  }
  for (int64_t e = 0; e < n; e++) p[e] /= total;
}

int64_t route(const float* logits, int64_t* index, float* gates, int64_t* slot, int64_t* counts,
              float* mean, int64_t tokens, int64_t experts, int64_t k) {
  std::vector<float> prob(experts), top(k);
  for (int64_t e = 0; e < experts; e++) mean[e] = 0;
  for (int64_t t = 0; t < tokens; t++) {
    const float* a = logits + t * experts;
    softmax_row(a, prob.data(), experts);
    for (int64_t e = 0; e < experts; e++) mean[e] += prob[e];
    for (int64_t j = 0; j < k; j++) {
      int64_t best = -1;
      for (int64_t e = 0; e < experts; e++) {
        bool taken = false;
        for (int64_t i = 0; i < j; i++) taken |= index[t * k + i] == e;
        if (!taken && (best < 0 || a[e] > a[best])) best = e;
      }
      index[t * k + j] = best;
      top[j] = a[best];
    }
    softmax_row(top.data(), gates + t * k, k);
  }
  for (int64_t e = 0; e < experts; e++) mean[e] /= float(tokens);
  int64_t room = 0;
  for (int64_t e = 0; e < experts; e++) counts[e] = 0;
  for (int64_t i = 0; i < tokens * k; i++) slot[i] = counts[index[i]]++;
  for (int64_t e = 0; e < experts; e++) room = counts[e] > room ? counts[e] : room;
  room = (room + ROOM - 1) / ROOM * ROOM;
  for (int64_t i = 0; i < tokens * k; i++) slot[i] += index[i] * room;
  return room;
}

void route_grad(const float* logits, const int64_t* index, const float* gates,
                const float* dgates, const float* dmean, float* dlogits, int64_t tokens,
                int64_t experts, int64_t k) {
  std::vector<float> prob(experts);
  for (int64_t t = 0; t < tokens; t++) {
    float *d = dlogits + t * experts, dot = 0;
    softmax_row(logits + t * experts, prob.data(), experts);
    for (int64_t e = 0; e < experts; e++) dot += prob[e] * dmean[e];
    for (int64_t e = 0; e < experts; e++) d[e] = prob[e] * (dmean[e] - dot) / float(tokens);
    dot = 0;
    for (int64_t j = 0; j < k; j++) dot += gates[t * k + j] * dgates[t * k + j];
    for (int64_t j = 0; j < k; j++)
      d[index[t * k + j]] += gates[t * k + j] * (dgates[t * k + j] - dot);
  }
}

}  // namespace

extern "C" int64_t route_f32(const float* logits, int64_t* index, float* gates, int64_t* slot,
                             int64_t* counts, float* mean, int64_t tokens, int64_t experts,
                             int64_t k) {
  return route(logits, index, gates, slot, counts, mean, tokens, experts, k);
}
extern "C" void route_grad_f32(const float* logits, const int64_t* index, const float* gates,
                               const float* dgates, const float* dmean, float* dlogits,
                               int64_t tokens, int64_t experts, int64_t k) {
  route_grad(logits, index, gates, dgates, dmean, dlogits, tokens, experts, k);
}
