// Attention around its two products: heads with rotary positions, causal softmax.
#include "common.h"

using namespace itera;

namespace {

// One row of the fused projection (B, L, H + 2 Hkv heads of P) and heads apart:
// q (B, H, L, P), k and v (B, Hkv, L, P). With cos and sin (L, P): q and k are turned
// by their rotary angles on the way. SPLIT false: the other way, by the inverse angles.
template <typename T, bool SPLIT>
void heads(T* row, const float* cs, const float* sn, T* q, T* k, T* v, int64_t batch,
           int64_t length, int64_t n_heads, int64_t n_kv, int64_t p) {
  int64_t all = n_heads + 2 * n_kv, half = p / 2;
  for (int64_t b = 0; b < batch; b++)
    for (int64_t t = 0; t < length; t++)
      for (int64_t h = 0; h < all; h++) {
        T* in = row + ((b * length + t) * all + h) * p;
        T* out = h < n_heads          ? q + ((b * n_heads + h) * length + t) * p
                 : h < n_heads + n_kv ? k + ((b * n_kv + h - n_heads) * length + t) * p
                                      : v + ((b * n_kv + h - n_heads - n_kv) * length + t) * p;
        if (!SPLIT) std::swap(in, out);
        if (!cs || h >= n_heads + n_kv) {
          std::memcpy(out, in, p * sizeof(T));
          continue;
        }
        const float *c = cs + t * p, *s = sn + t * p;
#pragma omp simd
        for (int64_t i = 0; i < half; i++) {
          float a = load(in[i]), z = load(in[i + half]), turn = SPLIT ? s[i] : -s[i];
          out[i] = store<T>(a * c[i] - z * turn);
          out[i + half] = store<T>(z * c[i] + a * turn);
        }
      }
}

// Causal softmax of scores (rows, L) times ``scale``, in place; row r is position r % L.
template <typename T> void causal_softmax(T* scores, int64_t rows, int64_t length, float scale) {
  std::vector<float> row(length);
  float* e = row.data();
  for (int64_t r = 0; r < rows; r++) {
    T* a = scores + r * length;
    int64_t n = r % length + 1;
    float top = -INFINITY, total = 0;
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < n; i++) {
      e[i] = load(a[i]) * scale;
      top = e[i] > top ? e[i] : top;
    }
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < n; i++) {
      e[i] = fast_exp(e[i] - top);
      total += e[i];
    }
    float inv = 1.0f / total;
#pragma omp simd
    for (int64_t i = 0; i < n; i++) a[i] = store<T>(e[i] * inv);
    std::memset((void*)(a + n), 0, (length - n) * sizeof(T));
  }
}

// Its gradient, in the place of ``dprobs``: scale * p * (dp - sum(p * dp)).
template <typename T>
void causal_softmax_grad(const T* probs, T* dprobs, int64_t rows, int64_t length, float scale) {
  for (int64_t r = 0; r < rows; r++) {
    const T* p = probs + r * length;
    T* g = dprobs + r * length;
    int64_t n = r % length + 1;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < n; i++) dot += load(p[i]) * load(g[i]);
#pragma omp simd
    for (int64_t i = 0; i < n; i++) g[i] = store<T>(scale * load(p[i]) * (load(g[i]) - dot));
    std::memset((void*)(g + n), 0, (length - n) * sizeof(T));
  }
}

}  // namespace

#define ATTENTION(T, S)                                                                           \
  extern "C" void split_heads_##S(T* row, const float* c, const float* s, T* q, T* k, T* v,       \
                                  int64_t batch, int64_t length, int64_t n_heads, int64_t n_kv,   \
                                  int64_t p) {                                                    \
    heads<T, true>(row, c, s, q, k, v, batch, length, n_heads, n_kv, p);                          \
  }                                                                                               \
  extern "C" void merge_heads_##S(T* row, const float* c, const float* s, T* q, T* k, T* v,       \
                                  int64_t batch, int64_t length, int64_t n_heads, int64_t n_kv,   \
                                  int64_t p) {                                                    \
    heads<T, false>(row, c, s, q, k, v, batch, length, n_heads, n_kv, p);                         \
  }                                                                                               \
  extern "C" void causal_softmax_##S(T* scores, int64_t rows, int64_t length, float scale) {      \
    causal_softmax(scores, rows, length, scale);                                                  \
  }                                                                                               \
  extern "C" void causal_softmax_grad_##S(const T* probs, T* dprobs, int64_t rows,                \
                                          int64_t length, float scale) {                          \
    causal_softmax_grad(probs, dprobs, rows, length, scale);                                      \
  }
ITERA_BOTH_TYPES(ATTENTION)
