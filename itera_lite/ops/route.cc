// The router of a mixture of experts.
#include "common.h"

using namespace itera;

namespace {

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

// Top-k of logits (T, E): index and gates (T, k), the softmax over the k; mean (E), the mean of the
// softmax over all experts; pair (T * k), the pairs (token, choice) as token * k + choice, those of
// expert e from start[e] to start[e + 1], in order. Ties go to the lower expert.
void route(const float* logits, int64_t* index, float* gates, int64_t* pair, int64_t* start,
           float* mean, int64_t tokens, int64_t experts, int64_t k) {
  int64_t padded = (experts + LANES - 1) / LANES * LANES;
  std::vector<float> prob(experts), top(k), left(padded, -INFINITY);
  std::vector<int64_t> next(experts);
  for (int64_t e = 0; e < experts; e++) mean[e] = 0;
  for (int64_t e = 0; e <= experts; e++) start[e] = 0;
  for (int64_t t = 0; t < tokens; t++) {
    const float* a = logits + t * experts;
    softmax_row(a, prob.data(), experts);
    for (int64_t e = 0; e < experts; e++) mean[e] += prob[e];
    std::memcpy(left.data(), a, experts * sizeof(float));
    for (int64_t j = 0; j < k; j++) {
      float best = -INFINITY;
#pragma omp simd reduction(max : best)
      for (int64_t e = 0; e < padded; e++) best = left[e] > best ? left[e] : best;
      int64_t at = 0;
      while (at < experts && left[at] != best) at++;
      if (at == experts) at = j;  // numbers that aren't finite
      index[t * k + j] = at;
      start[at + 1]++;
      top[j] = best;
      left[at] = -INFINITY;
    }
    softmax_row(top.data(), gates + t * k, k);
  }
  for (int64_t e = 0; e < experts; e++) {
    mean[e] /= float(tokens);
    start[e + 1] += start[e];
    next[e] = start[e];
  }
  for (int64_t i = 0; i < tokens * k; i++) pair[next[index[i]]++] = i;
}

// slot (T, k): the place of a pair when every expert has the same room for its pairs. Returns that
// room: the largest count, rounded up so that few sizes occur (each costs the matrix library a
// set-up).
int64_t slots(const int64_t* pair, const int64_t* start, int64_t* slot, int64_t experts) {
  constexpr int64_t STEP = 64;
  int64_t room = 0;
  for (int64_t e = 0; e < experts; e++)
    room = start[e + 1] - start[e] > room ? start[e + 1] - start[e] : room;
  room = (room + STEP - 1) / STEP * STEP;
  for (int64_t e = 0; e < experts; e++)
    for (int64_t i = start[e]; i < start[e + 1]; i++) slot[pair[i]] = e * room + i - start[e];
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

extern "C" void route_f32(const float* logits, int64_t* index, float* gates, int64_t* pair,
                          int64_t* start, float* mean, int64_t tokens, int64_t experts,
                          int64_t k) {
  route(logits, index, gates, pair, start, mean, tokens, experts, k);
}
extern "C" int64_t expert_slots(const int64_t* pair, const int64_t* start, int64_t* slot,
                                int64_t experts) {
  return slots(pair, start, slot, experts);
}
extern "C" void route_grad_f32(const float* logits, const int64_t* index, const float* gates,
                               const float* dgates, const float* dmean, float* dlogits,
                               int64_t tokens, int64_t experts, int64_t k) {
  route_grad(logits, index, gates, dgates, dmean, dlogits, tokens, experts, k);
}
