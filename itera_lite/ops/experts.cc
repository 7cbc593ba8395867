// A mixture of experts: each expert over its own tokens, gathered on the way into the products.
#include "gemm.h"
#include "swiglu.h"

using namespace itera;

namespace {

// An expert's tokens: token[i] has the pair (token, choice) pair[i], of which gate[pair[i]] is the
// weight.
template <typename T> struct Chosen {
  const T* x;
  const int64_t* token;
  int64_t width;
  const T* operator()(int64_t i) const { return x + token[i] * width; }
};

// Adds the sums of row i, times its gate where given, to the row of its token.
struct AddToTokens {
  float* y;
  const int64_t *token, *pair;
  const float* gate;
  int64_t width;
  template <int NV>
  void operator()(int64_t i, int64_t j, const vec (&sum)[NV], int64_t last) const {
    float* to = y + token[i] * width + j;
    vec g = splat(gate ? gate[pair[i]] : 1.0f);
    each<NV>(last, [&](int v, auto at) {
      at.store(to + v * LANES, g * sum[v] + at.load(to + v * LANES));
    });
  }
};

struct Sizes {  // the same order as in experts.py
  int64_t tokens, k, experts, width, inner;  // ``inner``: of one expert's feed-forward
  int64_t pairs() const { return tokens * k; }
};

// The feed-forward of every expert over its own tokens; pair and start as `route` gives them.
// hidden (pairs, 2 inner), in the order of ``pair``, is kept for the way back.
template <typename T>
void experts(const T* x, const int64_t* pair, const int64_t* start, const float* gate,
             const T* gate_up, const T* down, T* hidden, T* y, const Sizes& s) {
  static thread_local Buffer<T> active_;
  static thread_local std::vector<float> sum;
  static thread_local std::vector<int64_t> token;
  token.resize(s.pairs());
  for (int64_t i = 0; i < s.pairs(); i++) token[i] = pair[i] / s.k;
  sum.assign(s.tokens * s.width, 0.0f);
  int64_t f = s.inner;
  for (int64_t e = 0; e < s.experts; e++) {
    int64_t first = start[e], count = start[e + 1] - first;
    if (!count) continue;
    T *h = hidden + first * 2 * f, *active = active_.get(count * f);
    gemm(count, 2 * f, s.width, Chosen<T>{x, token.data() + first, s.width},
         gate_up + e * packed_size<T>(s.width, 2 * f), Store{h, 2 * f});
    gated_silu(h, active, count, f);
    gemm(count, s.width, f, Rows{active, f}, down + e * packed_size<T>(f, s.width),
         AddToTokens{sum.data(), token.data() + first, pair + first, gate, s.width});
  }
#pragma omp simd
  for (int64_t i = 0; i < s.tokens * s.width; i++) y[i] = store<T>(sum[i]);
}

// From the gradient by an expert's active values, before the gate: that by ``hidden`` (which may
// take its place) and by the gates, and the active values times their gate.
template <typename T>
void gate_and_silu_grad(const float* dactive, const T* hidden, const int64_t* pair,
                        const float* gate, T* dhidden, T* active, float* dgate,
                        int64_t count, int64_t f) {
  for (int64_t i = 0; i < count; i++) {
    const T *g = hidden + i * 2 * f, *u = g + f;
    const float* d = dactive + i * f;
    T *dg = dhidden + i * 2 * f, *du = dg + f;
    T* y = active + i * f;
    const vec weight = splat(gate[pair[i]]);
    vec dot{};
    columns(f, [&](int64_t j, auto at) {
      vec a = at.load(g + j), b = at.load(u + j), by = at.load(d + j), q = sigmoid(a);
      vec value = a * q * b;
      dot += by * value;
      by *= weight;
      at.store(y + j, weight * value);
      at.store(dg + j, by * b * q * (1.0f + a * (1.0f - q)));
      at.store(du + j, by * a * q);
    });
    dgate[pair[i]] = sum(dot);
  }
}

// dgate_up (experts, 2 inner, width), ddown (experts, width, inner).
template <typename T>
void experts_grad(const T* dy, const T* x, const int64_t* pair, const int64_t* start,
                  const float* gate, const T* hidden, const T* gate_up, const T* down,
                  T* dx, float* dgate, float* dgate_up, float* ddown, const Sizes& s) {
  static thread_local Buffer<T> active_, dhidden_, packed_, turned_;
  static thread_local std::vector<float> sum, dactive;
  static thread_local std::vector<int64_t> token;
  token.resize(s.pairs());
  for (int64_t i = 0; i < s.pairs(); i++) token[i] = pair[i] / s.k;
  sum.assign(s.tokens * s.width, 0.0f);
  int64_t f = s.inner, d = s.width, wide = d > f ? d : f;
  for (int64_t e = 0; e < s.experts; e++) {
    int64_t first = start[e], count = start[e + 1] - first, stride = transposed_stride<T>(count);
    const int64_t* own = token.data() + first;
    if (int64_t(dactive.size()) < count * f) dactive.resize(count * f);
    T *active = active_.get(count * f), *dhidden = dhidden_.get(count * 2 * f);
    T* packed = packed_.get(packed_size<T>(count, wide));
    T* turned = turned_.get(stride * (d > 2 * f ? d : 2 * f));
    Chosen<T> inputs{x, own, d}, grads{dy, own, d};
    gemm(count, f, d, grads, down + e * packed_size<T>(d, f), Store{dactive.data(), f});
    gate_and_silu_grad(dactive.data(), hidden + first * 2 * f, pair + first, gate, dhidden, active,
                       dgate, count, f);
    gemm(count, d, 2 * f, Rows{dhidden, 2 * f}, gate_up + e * packed_size<T>(2 * f, d),
         AddToTokens{sum.data(), own, pair + first, nullptr, d});
    transpose(grads, count, d, turned);
    pack(Rows{active, f}, count, f, packed);
    gemm(d, f, count, Rows{turned, stride}, packed, Store{ddown + e * d * f, f});
    transpose(Rows{dhidden, 2 * f}, count, 2 * f, turned);
    pack(inputs, count, d, packed);
    gemm(2 * f, d, count, Rows{turned, stride}, packed, Store{dgate_up + e * 2 * f * d, d});
  }
#pragma omp simd
  for (int64_t i = 0; i < s.tokens * d; i++) dx[i] = store<T>(sum[i]);
}

}  // namespace

#define EXPERTS(T, S)                                                                             \
  extern "C" void experts_##S(const T* x, const int64_t* pair, const int64_t* start,              \
                              const float* gate, const T* gate_up, const T* down, T* hidden,      \
                              T* y, const Sizes* sizes) {                                         \
    experts(x, pair, start, gate, gate_up, down, hidden, y, *sizes);                              \
  }                                                                                               \
  extern "C" void experts_grad_##S(const T* dy, const T* x, const int64_t* pair,                  \
                                   const int64_t* start, const float* gate, const T* hidden,      \
                                   const T* gate_up, const T* down, T* dx, float* dgate,          \
                                   float* dgate_up, float* ddown, const Sizes* sizes) {           \
    experts_grad(dy, x, pair, start, gate, hidden, gate_up, down, dx, dgate, dgate_up, ddown,     \
                 *sizes);                                                                         \
  }
ITERA_TYPES(EXPERTS)
