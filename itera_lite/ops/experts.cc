// A mixture of experts: each expert over its own tokens, gathered on the way into the products.
//
// Without the products of gemm.h: tokens to their experts' rows and back, around batched products
// of PyTorch, in which each expert has as many rows.
#include "gemm.h"
#include "swiglu.h"

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

#ifdef __AVX512BF16__

// An expert's tokens: token[i] has the pair (token, choice) pair[i], of which gate[pair[i]] is the
// weight.
struct Chosen {
  const bf16* x;
  const int64_t* token;
  int64_t width;
  const bf16* operator()(int64_t i) const { return x + token[i] * width; }
};

// Adds the sums of row i, times its gate where given, to the row of its token.
struct AddToTokens {
  float* y;
  const int64_t *token, *pair;
  const float* gate;
  int64_t width;
  template <int NV> void operator()(int64_t i, int64_t j, const __m512 (&v)[NV],
                                    __mmask16 last) const {
    float* to = y + token[i] * width + j;
    __m512 g = _mm512_set1_ps(gate ? gate[pair[i]] : 1.0f);
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) {
      __mmask16 mask = n + 1 < NV ? __mmask16(0xffff) : last;
      __m512 sum = _mm512_maskz_loadu_ps(mask, to + 16 * n);
      _mm512_mask_storeu_ps(to + 16 * n, mask, _mm512_fmadd_ps(g, v[n], sum));
    }
  }
};

struct Sizes {  // the same order as in experts.py
  int64_t tokens, k, experts, width, inner;  // ``inner``: of one expert's feed-forward
  int64_t pairs() const { return tokens * k; }
};

// The feed-forward of every expert over its own tokens; pair and start as `route` gives them.
// hidden (pairs, 2 inner), in the order of ``pair``, is kept for the way back.
void experts(const bf16* x, const int64_t* pair, const int64_t* start, const float* gate,
             const bf16* gate_up, const bf16* down, bf16* hidden, bf16* y, const Sizes& s) {
  static thread_local Buffer active_;
  static thread_local std::vector<float> sum;
  static thread_local std::vector<int64_t> token;
  token.resize(s.pairs());
  for (int64_t i = 0; i < s.pairs(); i++) token[i] = pair[i] / s.k;
  sum.assign(s.tokens * s.width, 0.0f);
  int64_t f = s.inner;
  for (int64_t e = 0; e < s.experts; e++) {
    int64_t first = start[e], count = start[e + 1] - first;
    if (!count) continue;
    bf16 *h = hidden + first * 2 * f, *active = active_.get(count * f);
    gemm(count, 2 * f, s.width, Chosen{x, token.data() + first, s.width},
         gate_up + e * packed_size(s.width, 2 * f), StoreBf16{h, 2 * f});
    gated_silu(h, active, count, f);
    gemm(count, s.width, f, Rows{active, f}, down + e * packed_size(f, s.width),
         AddToTokens{sum.data(), token.data() + first, pair + first, gate, s.width});
  }
#pragma omp simd
  for (int64_t i = 0; i < s.tokens * s.width; i++) y[i] = store<bf16>(sum[i]);
}

// From the gradient by an expert's active values, before the gate: that by ``hidden`` (which may
// take its place) and by the gates, and the active values times their gate.
void gate_and_silu_grad(const float* dactive, const bf16* hidden, const int64_t* pair,
                        const float* gate, bf16* dhidden, bf16* active, float* dgate,
                        int64_t count, int64_t f) {
  for (int64_t i = 0; i < count; i++) {
    const bf16 *g = hidden + i * 2 * f, *u = g + f;
    const float* d = dactive + i * f;
    bf16 *dg = dhidden + i * 2 * f, *du = dg + f;
    bf16* y = active + i * f;
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
void experts_grad(const bf16* dy, const bf16* x, const int64_t* pair, const int64_t* start,
                  const float* gate, const bf16* hidden, const bf16* gate_up, const bf16* down,
                  bf16* dx, float* dgate, float* dgate_up, float* ddown, const Sizes& s) {
  static thread_local Buffer active_, dhidden_, packed_, turned_;
  static thread_local std::vector<float> sum, dactive;
  static thread_local std::vector<int64_t> token;
  token.resize(s.pairs());
  for (int64_t i = 0; i < s.pairs(); i++) token[i] = pair[i] / s.k;
  sum.assign(s.tokens * s.width, 0.0f);
  int64_t f = s.inner, d = s.width, wide = d > f ? d : f;
  for (int64_t e = 0; e < s.experts; e++) {
    int64_t first = start[e], count = start[e + 1] - first, stride = transposed_stride(count);
    const int64_t* own = token.data() + first;
    if (int64_t(dactive.size()) < count * f) dactive.resize(count * f);
    bf16 *active = active_.get(count * f), *dhidden = dhidden_.get(count * 2 * f);
    bf16* packed = packed_.get(packed_size(count, wide));
    bf16* turned = turned_.get(stride * (d > 2 * f ? d : 2 * f));
    Chosen inputs{x, own, d}, grads{dy, own, d};
    gemm(count, f, d, grads, down + e * packed_size(d, f), StoreFloat{dactive.data(), f});
    gate_and_silu_grad(dactive.data(), hidden + first * 2 * f, pair + first, gate, dhidden, active,
                       dgate, count, f);
    gemm(count, d, 2 * f, Rows{dhidden, 2 * f}, gate_up + e * packed_size(2 * f, d),
         AddToTokens{sum.data(), own, pair + first, nullptr, d});
    transpose(grads, count, d, turned);
    pack(Rows{active, f}, count, f, packed);
    gemm(d, f, count, Rows{turned, stride}, packed, StoreFloat{ddown + e * d * f, f});
    transpose(Rows{dhidden, 2 * f}, count, 2 * f, turned);
    pack(inputs, count, d, packed);
    gemm(2 * f, d, count, Rows{turned, stride}, packed, StoreFloat{dgate_up + e * 2 * f * d, d});
  }
#pragma omp simd
  for (int64_t i = 0; i < s.tokens * d; i++) dx[i] = store<bf16>(sum[i]);
}

#endif

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

#ifdef __AVX512BF16__
extern "C" void experts_b16(const bf16* x, const int64_t* pair, const int64_t* start,
                            const float* gate, const bf16* gate_up, const bf16* down, bf16* hidden,
                            bf16* y, const Sizes* sizes) {
  experts(x, pair, start, gate, gate_up, down, hidden, y, *sizes);
}
extern "C" void experts_grad_b16(const bf16* dy, const bf16* x, const int64_t* pair,
                                 const int64_t* start, const float* gate, const bf16* hidden,
                                 const bf16* gate_up, const bf16* down, bf16* dx, float* dgate,
                                 float* dgate_up, float* ddown, const Sizes* sizes) {
  experts_grad(dy, x, pair, start, gate, hidden, gate_up, down, dx, dgate, dgate_up, ddown, *sizes);
}
#endif
