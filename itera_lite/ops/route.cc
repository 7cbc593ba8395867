// The router of a mixture of experts.
#include "gemm.h"

using namespace itera;

namespace {

// Transposes ``count`` rows of n numbers, at most `LANES`: columns (n, LANES), a lane a row, and 0
// in the lanes that have none.
void to_columns(const float* rows, int64_t count, int64_t n, float* columns) {
  for (int64_t j = 0; j < n; j += LANES) {
    vec r[LANES];
    for (int64_t c = 0; c < LANES; c++)
      r[c] = c < count ? get_words(rows + c * n + j, n - j) : vec{};
    transpose(r);
    for (int64_t c = 0; c < LANES && j + c < n; c++) put(columns + (j + c) * LANES, r[c]);
  }
}
void to_rows(const float* columns, int64_t count, int64_t n, float* rows) {
  for (int64_t j = 0; j < n; j += LANES) {
    vec r[LANES];
    for (int64_t c = 0; c < LANES; c++)
      r[c] = j + c < n ? get(columns + (j + c) * LANES) : vec{};
    transpose(r);
    for (int64_t c = 0; c < count; c++)
      if (n - j >= LANES) put(rows + c * n + j, r[c]);
      else put(rows + c * n + j, r[c], n - j);
  }
}

// Exponentials of n columns, relative to the largest of each lane; returns the inverses of their
// sums.
vec exponentials(const float* columns, float* e, int64_t n) {
  vec top = get(columns), total{};
  for (int64_t i = 1; i < n; i++) top = larger(top, get(columns + i * LANES));
  for (int64_t i = 0; i < n; i++) {
    vec x = fast_exp(get(columns + i * LANES) - top);
    total += x;
    put(e + i * LANES, x);
  }
  return 1.0f / total;
}

// Top-k of logits (T, E): index and gates (T, k), the softmax over the k; mean (E), the mean of the
// softmax over all experts; pair (T * k), the pairs (token, choice) as token * k + choice, those of
// expert e from start[e] to start[e + 1], in order. Ties go to the lower expert. A lane has a
// token.
void route(const float* logits, int64_t* index, float* gates, int64_t* pair, int64_t* start,
           float* mean, int64_t tokens, int64_t experts, int64_t k) {
  static thread_local Buffer<float> memory;
  float* left = memory.get((3 * experts + 2 * k) * LANES);  // the logits
  float *prob = left + experts * LANES, *sums = prob + experts * LANES;
  float *top = sums + experts * LANES, *chosen = top + k * LANES;
  std::vector<int64_t> next(experts);
  std::memset(sums, 0, experts * LANES * sizeof(float));
  for (int64_t e = 0; e <= experts; e++) start[e] = 0;
  for (int64_t t = 0; t < tokens; t += LANES) {
    int64_t count = tokens - t < LANES ? tokens - t : LANES;
    to_columns(logits + t * experts, count, experts, left);
    vec inverse = exponentials(left, prob, experts);
    if (count < LANES) inverse = Part{count}.inside(inverse, 0.0f);
    for (int64_t e = 0; e < experts * LANES; e += LANES)
      put(sums + e, get(sums + e) + get(prob + e) * inverse);
    // Each logit moves the smaller ones of the best so far down by a place.
    for (int64_t j = 0; j < k; j++) {
      put(top + j * LANES, splat(-INFINITY));
      put(chosen + j * LANES, splat(float(j)));  // valid where no number is finite
    }
    for (int64_t e = 0; e < experts; e++) {
      vec value = get(left + e * LANES), expert = splat(float(e));
      for (int64_t j = 0; j < k * LANES; j += LANES) {
        vec other = get(top + j), its = get(chosen + j);
        auto wins = value > other;
        put(top + j, wins ? value : other);
        put(chosen + j, wins ? expert : its);
        value = wins ? other : value;
        expert = wins ? its : expert;
      }
    }
    vec share = exponentials(top, top, k);
    for (int64_t i = 0; i < count; i++)
      for (int64_t j = 0; j < k; j++) {
        int64_t expert = int64_t(chosen[j * LANES + i]);
        index[(t + i) * k + j] = expert;
        gates[(t + i) * k + j] = top[j * LANES + i] * share[i];
        start[expert + 1]++;
      }
  }
  for (int64_t e = 0; e < experts; e++) {
    mean[e] = sum(get(sums + e * LANES)) / float(tokens);
    start[e + 1] += start[e];
    next[e] = start[e];
  }
  for (int64_t i = 0; i < tokens * k; i++) pair[next[index[i]]++] = i;
}

void route_grad(const float* logits, const int64_t* index, const float* gates,
                const float* dgates, const float* dmean, float* dlogits, int64_t tokens,
                int64_t experts, int64_t k) {
  static thread_local Buffer<float> memory;
  float* left = memory.get(2 * experts * LANES);
  float* prob = left + experts * LANES;
  for (int64_t t = 0; t < tokens; t += LANES) {
    int64_t count = tokens - t < LANES ? tokens - t : LANES;
    to_columns(logits + t * experts, count, experts, left);
    vec inverse = exponentials(left, prob, experts), all{};
    for (int64_t e = 0; e < experts; e++) all += get(prob + e * LANES) * dmean[e];
    vec by_mean = inverse / float(tokens), dot = all * inverse;
    for (int64_t e = 0; e < experts; e++)
      put(prob + e * LANES, get(prob + e * LANES) * by_mean * (dmean[e] - dot));
    to_rows(prob, count, experts, dlogits + t * experts);
    for (int64_t i = t; i < t + count; i++) {
      const float *gate = gates + i * k, *dgate = dgates + i * k;
      float own = 0;
      for (int64_t j = 0; j < k; j++) own += gate[j] * dgate[j];
      for (int64_t j = 0; j < k; j++)
        dlogits[i * experts + index[i * k + j]] += gate[j] * (dgate[j] - own);
    }
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
