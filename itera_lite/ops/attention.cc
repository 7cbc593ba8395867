// Causal attention: a block of queries at a time, of which the scores stay in the cache.
//
// Without the products of gemm.h: what stands around two batched products of PyTorch, heads with
// rotary positions and the causal softmax.
#include "gemm.h"

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

#ifdef __AVX512BF16__

constexpr int64_t BLOCK = 48;  // queries, or keys, at a time
// Part of a product: rows [begin, end), columns [from, to) of n, with ``from`` a multiple of
// `PANEL`, summed over [first, first + k) of the ``depth`` rows that were packed, with ``first``
// even. Rows of A begin at ``first``. The last panel is computed to its end.
template <typename A, typename Store>
void part(int64_t begin, int64_t end, int64_t from, int64_t to, int64_t n, int64_t first, int64_t k,
          int64_t depth, const A& row, const bf16* packed, const Store& store) {
  int64_t pairs = (depth + 1) / 2;
  for (int64_t j = from; j < to; j += PANEL) {
    int64_t vectors = n - j >= PANEL ? 4 : (n - j + 15) / 16;
    __mmask16 last = mask16(n - j - 16 * (vectors - 1));
    const bf16* b = packed + 2 * j * pairs + first / 2 * 32 * vectors;
    switch (vectors) {
      case 4: tiles<4>(row, begin, end, j, k, b, last, store); break;
      case 3: tiles<3>(row, begin, end, j, k, b, last, store); break;
      case 2: tiles<2>(row, begin, end, j, k, b, last, store); break;
      default: tiles<1>(row, begin, end, j, k, b, last, store);
    }
  }
}

// One row of scores, of which ``n`` count: exponentials, relative to the largest, then zeros up to
// ``end``. Returns the logarithm (base 2) of the sum of all 2^(factor * score).
float softmax_row(const float* score, bf16* e, int64_t n, int64_t end, float factor,
                  float* inverse) {
  __m512 top = _mm512_set1_ps(-INFINITY);
  for (int64_t i = 0; i < n; i += 16)
    top = _mm512_mask_max_ps(top, mask16(n - i), top, _mm512_loadu_ps(score + i));
  float shift = _mm512_reduce_max_ps(top) * factor;
  vec total{};
  int64_t i = 0;
  for (; i < n; i += 16) {
    __mmask16 mask = mask16(n - i);
    vec score_ = (vec)_mm512_maskz_loadu_ps(mask, score + i);
    vec x = (vec)_mm512_maskz_mov_ps(mask, (__m512)exp2(score_ * factor - shift));
    total += x;
    put(e + i, x);
  }
  for (; i < end; i += 16) put(e + i, vec{});
  *inverse = 1.0f / sum(total);
  return shift + std::log2(sum(total));
}

struct StoreScaled {  // rows times their factors
  StoreBf16 store;
  const float* factor;
  template <int NV> void operator()(int64_t i, int64_t j, const __m512 (&v)[NV],
                                    __mmask16 last) const {
    __m512 scaled[NV];
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) scaled[n] = _mm512_mul_ps(_mm512_set1_ps(factor[i]), v[n]);
    store(i, j, scaled, last);
  }
};

// The lanes of the queries from j on that see key ``i``.
inline __mmask16 seen(int64_t i, int64_t j) { return j >= i ? 0xffff : ~mask16(i - j); }

struct StoreProbabilities {  // from scores (key, query): 2^(factor * score - total[query])
  bf16* p;
  int64_t stride;
  const float* total;
  float factor;
  template <int NV> __attribute__((noinline)) void operator()(int64_t i, int64_t j,
                                                              const __m512 (&v)[NV],
                                                              __mmask16) const {
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) {
      int64_t at = j + 16 * n;
      vec x = exp2((vec)v[n] * factor - get(total + at));
      put(p + i * stride + at, (vec)_mm512_maskz_mov_ps(seen(i, at), (__m512)x));
    }
  }
};

struct StoreScoreGrad {  // from their gradient: scale * p * (dp - dot[query])
  const bf16* p;
  bf16* ds;
  int64_t stride;
  const float* dot;
  float scale;
  template <int NV> void operator()(int64_t i, int64_t j, const __m512 (&v)[NV], __mmask16) const {
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) {
      int64_t at = j + 16 * n;
      put(ds + i * stride + at, ((vec)v[n] - get(dot + at)) * scale * get(p + i * stride + at));
    }
  }
};

struct Attention {  // the same order as in attention.py
  int64_t batch, length, heads, kv_heads, width;
  int64_t columns() const { return (heads + 2 * kv_heads) * width; }
  int64_t padded() const { return (length + PANEL - 1) / PANEL * PANEL; }
  int64_t first_key() const { return heads * width; }
  int64_t first_value() const { return (heads + kv_heads) * width; }
};

// A head's rows (L, P), turned by their rotary angles where given; inverse: the other way.
template <typename From>
void turn(const From* in, int64_t in_stride, bf16* out, int64_t out_stride, const float* cos,
          const float* sin, bool inverse, const Attention& s) {
  int64_t half = s.width / 2;
  float sign = inverse ? -1.0f : 1.0f;
  for (int64_t t = 0; t < s.length; t++, in += in_stride, out += out_stride) {
    if (!cos) {
#pragma omp simd
      for (int64_t i = 0; i < s.width; i++) out[i] = store<bf16>(load(in[i]));
      continue;
    }
    const float *c = cos + t * s.width, *n = sin + t * s.width;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
      float a = load(in[i]), z = load(in[i + half]), by = sign * n[i];
      out[i] = store<bf16>(a * c[i] - z * by);
      out[i + half] = store<bf16>(z * c[i] + a * by);
    }
  }
}

// y (B, L, H * P); total (B, H, L): of each query, the logarithm of its sum of exponentials.
void attend(const bf16* qkv, const float* cos, const float* sin, bf16* y, float* total,
            const Attention& s) {
  static thread_local Buffer q_, keys_, values_, probs_;
  static thread_local std::vector<float> scores, inverse(BLOCK);
  int64_t l = s.length, p = s.width, padded = s.padded();
  if (int64_t(scores.size()) < BLOCK * padded) scores.resize(BLOCK * padded);
  bf16 *q = q_.get(l * p), *probs = probs_.get(BLOCK * padded);
  bf16 *keys = keys_.get(packed_size(p, l)), *values = values_.get(packed_size(l, p));
  float factor = LOG2_E / std::sqrt(float(p));
  for (int64_t b = 0; b < s.batch; b++)
    for (int64_t h = 0; h < s.heads; h++) {
      const bf16* row = qkv + b * l * s.columns();
      int64_t group = s.heads / s.kv_heads, kv = h / group;
      if (h % group == 0) {
        turn(row + s.first_key() + kv * p, s.columns(), q, p, cos, sin, false, s);
        pack_transposed(q, p, l, p, keys);
        pack(Rows{row + s.first_value() + kv * p, s.columns()}, l, p, values);
      }
      turn(row + h * p, s.columns(), q, p, cos, sin, false, s);
      float* own = total + (b * s.heads + h) * l;
      bf16* out = y + b * l * s.heads * p + h * p;
      for (int64_t begin = 0; begin < l; begin += BLOCK) {
        int64_t end = begin + BLOCK < l ? begin + BLOCK : l, count = end - begin;
        part(0, count, 0, end, l, 0, p, p, Rows{q + begin * p, p}, keys,
             StoreFloat{scores.data(), padded});
        for (int64_t i = 0; i < count; i++)
          own[begin + i] = softmax_row(scores.data() + i * padded, probs + i * padded,
                                       begin + i + 1, end, factor, &inverse[i]);
        part(0, count, 0, p, p, 0, end, l, Rows{probs, padded}, values,
             StoreScaled{{out + begin * s.heads * p, s.heads * p}, inverse.data()});
      }
    }
}

// The gradient by qkv. A block of keys at a time, with all queries that see them: their
// probabilities, computed again, and the gradients of those have the keys as rows.
void attend_grad(const bf16* qkv, const float* cos, const float* sin, const bf16* y,
                 const float* total, const bf16* dy, bf16* dqkv, const Attention& s) {
  static thread_local Buffer q_, k_, v_, rows_, columns_, probs_, grads_, turned_;
  static thread_local std::vector<float> sums;
  int64_t l = s.length, p = s.width, padded = s.padded(), wide = s.heads * p;
  int64_t turned_stride = transposed_stride(BLOCK);
  bf16 *q = q_.get(l * p), *k = k_.get(l * p), *v = v_.get(l * p);
  // q and dy as the rows of a product, q and dy as its columns, a block of keys
  bf16* rows = rows_.get(2 * packed_size(l, p) + packed_size(BLOCK, p));
  bf16 *dy_rows = rows + packed_size(l, p), *key_rows = dy_rows + packed_size(l, p);
  bf16* columns = columns_.get(2 * packed_size(p, l));
  bf16* dy_columns = columns + packed_size(p, l);
  bf16 *probs = probs_.get(BLOCK * padded), *grads = grads_.get(BLOCK * padded);
  bf16* turned = turned_.get(padded * turned_stride);
  if (int64_t(sums.size()) < 3 * l * p + 2 * padded) sums.resize(3 * l * p + 2 * padded);
  float *dq = sums.data(), *dk = dq + l * p, *dv = dk + l * p, *dot = dv + l * p;
  float* own_total = dot + padded;
  float scale = 1.0f / std::sqrt(float(p));
  for (int64_t b = 0; b < s.batch; b++)
    for (int64_t h = 0; h < s.heads; h++) {
      const bf16* row = qkv + b * l * s.columns();
      bf16* drow = dqkv + b * l * s.columns();
      int64_t group = s.heads / s.kv_heads, kv = h / group;
      bool first = h % group == 0;
      if (first) {
        turn(row + s.first_key() + kv * p, s.columns(), k, p, cos, sin, false, s);
        turn(row + s.first_value() + kv * p, s.columns(), v, p, nullptr, nullptr, false, s);
      }
      turn(row + h * p, s.columns(), q, p, cos, sin, false, s);
      const bf16 *out = y + b * l * wide + h * p, *dout = dy + b * l * wide + h * p;
      for (int64_t t = 0; t < l; t++) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < p; i++) sum += load(out[t * wide + i]) * load(dout[t * wide + i]);
        dot[t] = sum;
      }
      std::memcpy(own_total, total + (b * s.heads + h) * l, l * sizeof(float));
      std::memset(dot + l, 0, (padded - l) * sizeof(float));
      std::memset(own_total + l, 0, (padded - l) * sizeof(float));
      std::memset(dq, 0, l * p * sizeof(float));
      pack(Rows{q, p}, l, p, rows);
      pack(Rows{dout, wide}, l, p, dy_rows);
      pack_transposed(q, p, l, p, columns);
      pack_transposed(dout, wide, l, p, dy_columns);
      for (int64_t begin = 0; begin < l; begin += BLOCK) {
        int64_t end = begin + BLOCK < l ? begin + BLOCK : l, from = begin / PANEL * PANEL;
        // Row i of a block is key i.
        bf16 *pt = probs - begin * padded, *gt = grads - begin * padded;
        part(begin, end, from, l, l, 0, p, p, Rows{k, p}, columns,
             StoreProbabilities{pt, padded, own_total, scale * LOG2_E});
        part(begin, end, from, l, l, 0, p, p, Rows{v, p}, dy_columns,
             StoreScoreGrad{pt, gt, padded, dot, scale});
        part(begin, end, 0, p, p, begin, l - begin, l, Rows{pt + begin, padded}, dy_rows,
             StoreFloat{dv, p, !first});
        part(begin, end, 0, p, p, begin, l - begin, l, Rows{gt + begin, padded}, rows,
             StoreFloat{dk, p, !first});
        transpose(Rows{grads + begin, padded}, end - begin, l - begin, turned);
        pack(Rows{k + begin * p, p}, end - begin, p, key_rows);
        gemm(l - begin, p, end - begin, Rows{turned, transposed_stride(end - begin)}, key_rows,
             StoreFloat{dq + begin * p, p, true});
      }
      turn(dq, p, drow + h * p, s.columns(), cos, sin, true, s);
      if (h % group + 1 == group) {
        turn(dk, p, drow + s.first_key() + kv * p, s.columns(), cos, sin, true, s);
        turn(dv, p, drow + s.first_value() + kv * p, s.columns(), nullptr, nullptr, true, s);
      }
    }
}

#endif

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

#ifdef __AVX512BF16__
extern "C" void attention_b16(const bf16* qkv, const float* cos, const float* sin, bf16* y,
                              float* total, const Attention* sizes) {
  attend(qkv, cos, sin, y, total, *sizes);
}
extern "C" void attention_grad_b16(const bf16* qkv, const float* cos, const float* sin,
                                   const bf16* y, const float* total, const bf16* dy, bf16* dqkv,
                                   const Attention* sizes) {
  attend_grad(qkv, cos, sin, y, total, dy, dqkv, *sizes);
}
#endif
