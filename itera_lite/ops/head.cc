// The output head and its loss in chunks of rows whose logits stay in the second-level cache.
#include "gemm.h"

using namespace itera;

extern "C" void soft_cross_entropy(float* logits, const int64_t* target, const int32_t* ids,
                                   const float* probs, float* hard, float* total, int64_t rows,
                                   int64_t v, int64_t k, float inverse_scaling, float temperature,
                                   float mix);

namespace {

#ifdef ITERA_AMX
constexpr int64_t CHUNK = 3 * TILE_ROWS;  // rows whose logits exist in float32
#else
constexpr int64_t CHUNK = 24;
#endif
constexpr int64_t GRADIENTS = 4 << 20;  // bytes of logits' gradients that exist,
constexpr int64_t FEWEST_ROWS = 256;    // but those of this many rows at least

template <typename T> struct Head {
  const T *hidden, *forward, *backward;  // (rows, width); the weight (v, width), packed
  T* dhidden;                            // (rows, width); null: no gradients
  float* dweight;                        // (v, width)
  int64_t rows, v, width;
};

// Rows of float32 logits, and the largest of every ``LANES``-th column.
struct StoreLogits {
  float *z, *top;
  int64_t v;
  template <int NV>
  void operator()(int64_t i, int64_t j, const vec (&sum)[NV], int64_t last) const {
    float* to = z + i * v + j;
    vec most = j ? get(top + LANES * i) : splat(-INFINITY);
    each<NV>(last, [&](int n, auto at) {
      at.store(to + n * LANES, sum[n]);
      most = larger(most, at.inside(sum[n], -INFINITY));
    });
    put(top + LANES * i, most);
  }
};

// A row of logits -> gradients, times ``scale``; returns the loss.
template <typename T>
float cross_entropy(float* z, const float* tops, T* out, int64_t v, int64_t target,
                    float inverse_scaling, float scale) {
  const float top = largest(get(tops)) * inverse_scaling;
  const float correct = z[target] * inverse_scaling;
  const float factor = inverse_scaling * LOG2_E, shift = top * LOG2_E;
  vec sums{};
  columns(v, [&](int64_t i, auto at) {
    vec e = exp2(at.load(z + i) * factor - shift);
    at.store(z + i, e);
    sums += at.inside(e, 0.0f);
  });
  const float total = sum(sums);
  if (out) {
    const float inverse = scale * inverse_scaling / total;
    columns(v, [&](int64_t i, auto at) { at.store(out + i, at.load(z + i) * inverse); });
    out[target] = store<T>((z[target] / total - 1) * scale * inverse_scaling);
  }
  return std::log(total) + top - correct;
}

// loss(first row, rows, logits, their tops, gradients or null) of each chunk, and the products.
template <typename T, typename Loss> void run(const Head<T>& h, const Loss& loss) {
  static thread_local Buffer<float> logits;
  static thread_local Buffer<T> gradients;
  int64_t block = GRADIENTS / int64_t(sizeof(T)) / h.v;
  if (block < FEWEST_ROWS) block = FEWEST_ROWS;
  block = block / CHUNK * CHUNK + CHUNK;
  if (block > h.rows) block = h.rows;
  float* z = logits.get(CHUNK * (h.v + LANES));
  float* tops = z + CHUNK * h.v;
  T* g = h.dhidden ? gradients.get(block * h.v) : nullptr;
  for (int64_t begin = 0; begin < h.rows; begin += block) {
    int64_t count = h.rows - begin < block ? h.rows - begin : block;
    for (int64_t first = 0; first < count; first += CHUNK) {
      int64_t n = count - first < CHUNK ? count - first : CHUNK;
      const T* x = h.hidden + (begin + first) * h.width;
      gemm(n, h.v, h.width, Rows{x, h.width}, h.forward, StoreLogits{z, tops, h.v});
      T* part = g ? g + first * h.v : nullptr;
      loss(begin + first, n, z, tops, part);
      if (g)
        gemm(n, h.width, h.v, Rows{part, h.v}, h.backward,
             Store{h.dhidden + (begin + first) * h.width, h.width});
    }
    if (h.dweight)
      weight_grad(g, h.hidden + begin * h.width, h.dweight, count, h.v, h.width, begin > 0);
  }
}

// Losses (rows) in nats of the logits hidden (rows, width) weight^T * inverse_scaling, and the
// gradients of their sum times ``scale``; dhidden null: no gradients, dweight null: only dhidden.
template <typename T>
void hard_loss(const Head<T>& head, const int64_t* target, float* losses, float inverse_scaling,
               float scale) {
  const int64_t v = head.v;
  run(head, [=](int64_t first, int64_t n, float* z, const float* tops, T* g) {
    for (int64_t r = 0; r < n; r++)
      losses[first + r] = cross_entropy(z + r * v, tops + LANES * r, g ? g + r * v : nullptr, v,
                                        target[first + r], inverse_scaling, scale);
  });
}

// The same for soft targets. `soft_cross_entropy` (soft_loss.cc) documents the arguments.
template <typename T>
void soft_loss(const Head<T>& head, const int64_t* target, const int32_t* ids, const float* probs,
               float* hard, float* total, int64_t k, float inverse_scaling, float temperature,
               float mix, float scale) {
  const int64_t v = head.v;
  run(head, [=](int64_t first, int64_t n, float* z, const float*, T* g) {
    soft_cross_entropy(z, target + first, ids + first * k, probs + first * k, hard + first,
                       total + first, n, v, k, inverse_scaling, temperature, mix);
    if (g)
      columns(n * v, [=](int64_t i, auto at) { at.store(g + i, at.load(z + i) * scale); });
  });
}

}  // namespace

#define HEAD(T, S)                                                                                \
  extern "C" void head_cross_entropy_##S(                                                         \
      const T* hidden, const T* forward, const T* backward, const int64_t* target, float* losses, \
      T* dhidden, float* dweight, int64_t rows, int64_t v, int64_t width, float inverse_scaling,  \
      float scale) {                                                                              \
    hard_loss<T>({hidden, forward, backward, dhidden, dweight, rows, v, width}, target, losses,   \
                 inverse_scaling, scale);                                                         \
  }                                                                                               \
  extern "C" void head_soft_cross_entropy_##S(                                                    \
      const T* hidden, const T* forward, const T* backward, const int64_t* target,                \
      const int32_t* ids, const float* probs, float* hard, float* total, T* dhidden,              \
      float* dweight, int64_t rows, int64_t v, int64_t width, int64_t k, float inverse_scaling,   \
      float temperature, float mix, float scale) {                                                \
    soft_loss<T>({hidden, forward, backward, dhidden, dweight, rows, v, width}, target, ids,      \
                 probs, hard, total, k, inverse_scaling, temperature, mix, scale);                \
  }
ITERA_TYPES(HEAD)
