// Causal attention: a block of queries at a time, of which the scores stay in the cache.
#include "gemm.h"

using namespace itera;

namespace {

constexpr int64_t BLOCK = 48;  // queries, or keys, at a time
// Part of a product: rows [begin, end), columns [from, to) of n, with ``from`` a multiple of
// `PANEL`, summed over [first, first + k) of the ``depth`` rows that were packed, with ``first``
// even. Rows of A begin at ``first``. The last panel is computed to its end.
template <typename T, typename A, typename S>
void part(int64_t begin, int64_t end, int64_t from, int64_t to, int64_t n, int64_t first, int64_t k,
          int64_t depth, const A& row, const T* packed, const S& store) {
  int64_t deep = words<T>(depth) * DEPTH<T>;
  for (int64_t j = from; j < to; j += PANEL)
    panel(row, begin, end, j, n, k, packed + j * deep + first * LANES * vectors_at(j, n), store);
}

// One row of scores, of which ``n`` count: exponentials, relative to the largest, then zeros up to
// ``end`` and to a whole vector. Returns the logarithm (base 2) of the sum of all
// 2^(factor * score).
template <typename T>
float softmax_row(const float* score, T* e, int64_t n, int64_t end, float factor, float* inverse) {
  vec top = splat(-INFINITY), total{};
  columns(n, [&](int64_t i, auto at) {
    top = larger(top, at.inside(at.load(score + i), -INFINITY));
  });
  float shift = largest(top) * factor;
  int64_t i = 0;
  for (; i < n; i += LANES) {
    vec x = exp2(get(score + i) * factor - shift);
    if (i + LANES > n) x = Part{n - i}.inside(x, 0.0f);
    total += x;
    put(e + i, x);
  }
  for (; i < end; i += LANES) put(e + i, vec{});
  *inverse = 1.0f / sum(total);
  return shift + std::log2(sum(total));
}

template <typename T> struct StoreScaled {  // rows times their factors
  T* c;
  int64_t stride;
  const float* factor;
  template <int NV>
  void operator()(int64_t i, int64_t j, const vec (&sum)[NV], int64_t last) const {
    T* to = c + i * stride + j;
    const float by = factor[i];
    each<NV>(last, [&](int v, auto at) { at.store(to + v * LANES, by * sum[v]); });
  }
};

// From scores (key, query): 2^(factor * score - total[query]) for the queries that see the key.
template <typename T> struct StoreProbabilities {
  T* p;
  int64_t stride;
  const float* total;
  float factor;
  template <int NV>
  __attribute__((noinline)) void operator()(int64_t i, int64_t j, const vec (&sum)[NV],
                                            int64_t) const {
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) {
      int64_t at = j + v * LANES;
      vec x = exp2(sum[v] * factor - get(total + at));
      put(p + i * stride + at, at >= i ? x : first(i - at) ? vec{} : x);
    }
  }
};

// From the gradient of the probabilities: scale * p * (dp - dot[query]).
template <typename T> struct StoreScoreGrad {
  const T* p;
  T* ds;
  int64_t stride;
  const float* dot;
  float scale;
  template <int NV>
  void operator()(int64_t i, int64_t j, const vec (&sum)[NV], int64_t) const {
#pragma GCC unroll 4
    for (int v = 0; v < NV; v++) {
      int64_t at = i * stride + j + v * LANES;
      put(ds + at, (sum[v] - get(dot + j + v * LANES)) * scale * get(p + at));
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
template <typename From, typename T>
void turn(const From* in, int64_t in_stride, T* out, int64_t out_stride, const float* cos,
          const float* sin, bool inverse, const Attention& s) {
  int64_t half = s.width / 2;
  float sign = inverse ? -1.0f : 1.0f;
  for (int64_t t = 0; t < s.length; t++, in += in_stride, out += out_stride) {
    if (!cos) {
#pragma omp simd
      for (int64_t i = 0; i < s.width; i++) out[i] = store<T>(load(in[i]));
      continue;
    }
    const float *c = cos + t * s.width, *n = sin + t * s.width;
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
      float a = load(in[i]), z = load(in[i + half]), by = sign * n[i];
      out[i] = store<T>(a * c[i] - z * by);
      out[i + half] = store<T>(z * c[i] + a * by);
    }
  }
}

// y (B, L, H * P); total (B, H, L): of each query, the logarithm of its sum of exponentials.
template <typename T>
void attend(const T* qkv, const float* cos, const float* sin, T* y, float* total,
            const Attention& s) {
  static thread_local Buffer<T> q_, keys_, values_, probs_;
  static thread_local std::vector<float> scores, inverse(BLOCK);
  int64_t l = s.length, p = s.width, padded = s.padded();
  if (int64_t(scores.size()) < BLOCK * padded) scores.resize(BLOCK * padded);
  T *q = q_.get(l * p), *probs = probs_.get(BLOCK * padded);
  T *keys = keys_.get(packed_size<T>(p, l)), *values = values_.get(packed_size<T>(l, p));
  float factor = LOG2_E / std::sqrt(float(p));
  for (int64_t b = 0; b < s.batch; b++)
    for (int64_t h = 0; h < s.heads; h++) {
      const T* row = qkv + b * l * s.columns();
      int64_t group = s.heads / s.kv_heads, kv = h / group;
      if (h % group == 0) {
        turn(row + s.first_key() + kv * p, s.columns(), q, p, cos, sin, false, s);
        pack_transposed(q, p, l, p, keys);
        pack(Rows{row + s.first_value() + kv * p, s.columns()}, l, p, values);
      }
      turn(row + h * p, s.columns(), q, p, cos, sin, false, s);
      float* own = total + (b * s.heads + h) * l;
      T* out = y + b * l * s.heads * p + h * p;
      for (int64_t begin = 0; begin < l; begin += BLOCK) {
        int64_t end = begin + BLOCK < l ? begin + BLOCK : l, count = end - begin;
        part(0, count, 0, end, l, 0, p, p, Rows{q + begin * p, p}, keys,
             Store{scores.data(), padded});
        for (int64_t i = 0; i < count; i++)
          own[begin + i] = softmax_row(scores.data() + i * padded, probs + i * padded,
                                       begin + i + 1, end, factor, &inverse[i]);
        part(0, count, 0, p, p, 0, end, l, Rows{probs, padded}, values,
             StoreScaled<T>{out + begin * s.heads * p, s.heads * p, inverse.data()});
      }
    }
}

// The gradient by qkv. A block of keys at a time, with all queries that see them: their
// probabilities, computed again, and the gradients of those have the keys as rows.
template <typename T>
void attend_grad(const T* qkv, const float* cos, const float* sin, const T* y,
                 const float* total, const T* dy, T* dqkv, const Attention& s) {
  static thread_local Buffer<T> q_, k_, v_, rows_, columns_, probs_, grads_, turned_;
  static thread_local std::vector<float> sums;
  int64_t l = s.length, p = s.width, padded = s.padded(), wide = s.heads * p;
  int64_t turned_stride = transposed_stride<T>(BLOCK);
  T *q = q_.get(l * p), *k = k_.get(l * p), *v = v_.get(l * p);
  // q and dy as the rows of a product, q and dy as its columns, a block of keys
  T* rows = rows_.get(2 * packed_size<T>(l, p) + packed_size<T>(BLOCK, p));
  T *dy_rows = rows + packed_size<T>(l, p), *key_rows = dy_rows + packed_size<T>(l, p);
  T* columns = columns_.get(2 * packed_size<T>(p, l));
  T* dy_columns = columns + packed_size<T>(p, l);
  T *probs = probs_.get(BLOCK * padded), *grads = grads_.get(BLOCK * padded);
  T* turned = turned_.get(padded * turned_stride);
  if (int64_t(sums.size()) < 3 * l * p + 2 * padded) sums.resize(3 * l * p + 2 * padded);
  float *dq = sums.data(), *dk = dq + l * p, *dv = dk + l * p, *dot = dv + l * p;
  float* own_total = dot + padded;
  float scale = 1.0f / std::sqrt(float(p));
  for (int64_t b = 0; b < s.batch; b++)
    for (int64_t h = 0; h < s.heads; h++) {
      const T* row = qkv + b * l * s.columns();
      T* drow = dqkv + b * l * s.columns();
      int64_t group = s.heads / s.kv_heads, kv = h / group;
      bool first = h % group == 0;
      if (first) {
        turn(row + s.first_key() + kv * p, s.columns(), k, p, cos, sin, false, s);
        turn(row + s.first_value() + kv * p, s.columns(), v, p, nullptr, nullptr, false, s);
      }
      turn(row + h * p, s.columns(), q, p, cos, sin, false, s);
      const T *out = y + b * l * wide + h * p, *dout = dy + b * l * wide + h * p;
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
        T *pt = probs - begin * padded, *gt = grads - begin * padded;
        part(begin, end, from, l, l, 0, p, p, Rows{k, p}, columns,
             StoreProbabilities<T>{pt, padded, own_total, scale * LOG2_E});
        part(begin, end, from, l, l, 0, p, p, Rows{v, p}, dy_columns,
             StoreScoreGrad<T>{pt, gt, padded, dot, scale});
        part(begin, end, 0, p, p, begin, l - begin, l, Rows{pt + begin, padded}, dy_rows,
             Store{dv, p, !first});
        part(begin, end, 0, p, p, begin, l - begin, l, Rows{gt + begin, padded}, rows,
             Store{dk, p, !first});
        transpose(Rows{grads + begin, padded}, end - begin, l - begin, turned);
        pack(Rows{k + begin * p, p}, end - begin, p, key_rows);
        gemm(l - begin, p, end - begin, Rows{turned, transposed_stride<T>(end - begin)}, key_rows,
             Store{dq + begin * p, p, true});
      }
      turn(dq, p, drow + h * p, s.columns(), cos, sin, true, s);
      if (h % group + 1 == group) {
        turn(dk, p, drow + s.first_key() + kv * p, s.columns(), cos, sin, true, s);
        turn(dv, p, drow + s.first_value() + kv * p, s.columns(), nullptr, nullptr, true, s);
      }
    }
}

}  // namespace

#define ATTENTION(T, S)                                                                           \
  extern "C" void attention_##S(const T* qkv, const float* cos, const float* sin, T* y,           \
                                float* total, const Attention* sizes) {                           \
    attend(qkv, cos, sin, y, total, *sizes);                                                      \
  }                                                                                               \
  extern "C" void attention_grad_##S(const T* qkv, const float* cos, const float* sin,            \
                                     const T* y, const float* total, const T* dy, T* dqkv,        \
                                     const Attention* sizes) {                                    \
    attend_grad(qkv, cos, sin, y, total, dy, dqkv, *sizes);                                       \
  }
ITERA_TYPES(ATTENTION)
