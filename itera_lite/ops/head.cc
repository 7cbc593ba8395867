// The output head and its loss in chunks of rows whose logits stay in the second-level cache.
#include "gemm.h"

using namespace itera;

#ifdef __AVX512BF16__

extern "C" void soft_cross_entropy_f32(float* logits, const int64_t* target, const int32_t* ids,
                                       const float* probs, float* hard, float* total,
                                       int64_t rows, int64_t v, int64_t k, float inverse_scaling,
                                       float temperature, float mix);

namespace {

constexpr int64_t CHUNK = 24;              // rows whose logits exist in float32
constexpr int64_t GRADIENTS = 1 << 21;     // of logits that exist in bfloat16,
constexpr int64_t FEWEST_ROWS = 256;       // but those of this many rows at least
constexpr int64_t COLUMNS = 96;            // of them that are transposed at a time

struct Head {
  const bf16 *hidden, *forward, *backward;  // (rows, width); the weight (v, width), packed
  bf16* dhidden;                            // (rows, width); null: no gradients
  float* dweight;                           // (v, width)
  int64_t rows, v, width;
};

// Rows of float32 logits, and the largest of every 16th column.
struct StoreLogits {
  float *z, *top;
  int64_t v;
  template <int NV> void operator()(int64_t i, int64_t j, const __m512 (&sum)[NV],
                                    __mmask16 last) const {
    float* to = z + i * v + j;
    __m512 most = j ? _mm512_loadu_ps(top + 16 * i) : _mm512_set1_ps(-INFINITY);
#pragma GCC unroll 4
    for (int n = 0; n < NV; n++) {
      __mmask16 mask = n + 1 < NV ? __mmask16(0xffff) : last;
      _mm512_mask_storeu_ps(to + 16 * n, mask, sum[n]);
      most = _mm512_mask_max_ps(most, mask, most, sum[n]);
    }
    _mm512_storeu_ps(top + 16 * i, most);
  }
};

// A row of logits -> bfloat16 gradients, times ``scale``; returns the loss.
float cross_entropy(float* z, const float* tops, bf16* out, int64_t v, int64_t target,
                    float inverse_scaling, float scale) {
  const float top = _mm512_reduce_max_ps(_mm512_loadu_ps(tops)) * inverse_scaling;
  const float correct = z[target] * inverse_scaling;
  const __m512 factor = _mm512_set1_ps(inverse_scaling * LOG2_E);
  const __m512 shift = _mm512_set1_ps(top * LOG2_E);
  __m512 sums[4] = {};
  for (int64_t i = 0; i < v; i += 64)
#pragma GCC unroll 4
    for (int n = 0; n < 4; n++) {
      const __mmask16 mask = mask16(v - i - 16 * n);
      float* at = z + i + 16 * n;
      __m512 t = _mm512_fmsub_ps(_mm512_maskz_loadu_ps(mask, at), factor, shift);
      __m512 e = (__m512)exp2((vec)t);
      _mm512_mask_storeu_ps(at, mask, e);
      sums[n] = _mm512_mask_add_ps(sums[n], mask, sums[n], e);
    }
  const float total = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]),
                                                         _mm512_add_ps(sums[2], sums[3])));
  if (out) {
    const __m512 inverse = _mm512_set1_ps(scale * inverse_scaling / total);
    for (int64_t i = 0; i < v; i += 16) {
      const __mmask16 mask = mask16(v - i);
      __m512 e = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, z + i), inverse);
      _mm256_mask_storeu_epi16(out + i, mask, (__m256i)_mm512_cvtneps_pbh(e));
    }
    out[target] = store<bf16>((z[target] / total - 1) * scale * inverse_scaling);
  }
  return std::log(total) + top - correct;
}

void to_bf16(const float* z, bf16* out, int64_t n, float scale) {
#pragma omp simd
  for (int64_t i = 0; i < n; i++) out[i] = store<bf16>(z[i] * scale);
}

// loss(first row, rows, logits, their tops, gradients or null) of each chunk, and the products.
template <typename Loss> void run(const Head& h, const Loss& loss) {
  static thread_local Buffer logits, gradients, turned, packed;
  int64_t block = GRADIENTS / h.v > FEWEST_ROWS ? GRADIENTS / h.v : FEWEST_ROWS;
  block = block / CHUNK * CHUNK + CHUNK;
  if (block > h.rows) block = h.rows;
  float* z = (float*)logits.get(2 * CHUNK * (h.v + 16));
  float* tops = z + CHUNK * h.v;
  bf16* g = h.dhidden ? gradients.get(block * h.v) : nullptr;
  for (int64_t begin = 0; begin < h.rows; begin += block) {
    int64_t count = h.rows - begin < block ? h.rows - begin : block;
    for (int64_t first = 0; first < count; first += CHUNK) {
      int64_t n = count - first < CHUNK ? count - first : CHUNK;
      const bf16* x = h.hidden + (begin + first) * h.width;
      gemm(n, h.v, h.width, Rows{x, h.width}, h.forward, StoreLogits{z, tops, h.v});
      bf16* part = g ? g + first * h.v : nullptr;
      loss(begin + first, n, z, tops, part);
      if (g)
        gemm(n, h.width, h.v, Rows{part, h.v}, h.backward,
             StoreBf16{h.dhidden + (begin + first) * h.width, h.width});
    }
    if (!h.dweight) continue;
    bf16* b = packed.get(packed_size(count, h.width));
    int64_t stride = transposed_stride(count);
    bf16* a = turned.get(COLUMNS * stride);
    pack(Rows{h.hidden + begin * h.width, h.width}, count, h.width, b);
    for (int64_t j = 0; j < h.v; j += COLUMNS) {
      int64_t n = h.v - j < COLUMNS ? h.v - j : COLUMNS;
      transpose(Rows{g + j, h.v}, count, n, a);
      gemm(n, h.width, count, Rows{a, stride}, b,
           StoreFloat{h.dweight + j * h.width, h.width, begin > 0});
    }
  }
}

}  // namespace

// Losses (rows) in nats of the logits hidden (rows, width) weight^T * inverse_scaling, and the
// gradients of their sum times ``scale``; dhidden null: no gradients, dweight null: only dhidden.
extern "C" void head_cross_entropy_b16(const bf16* hidden, const bf16* forward,
                                       const bf16* backward, const int64_t* target, float* losses,
                                       bf16* dhidden, float* dweight, int64_t rows, int64_t v,
                                       int64_t width, float inverse_scaling, float scale) {
  run({hidden, forward, backward, dhidden, dweight, rows, v, width},
      [=](int64_t first, int64_t n, float* z, const float* tops, bf16* g) {
        for (int64_t r = 0; r < n; r++)
          losses[first + r] = cross_entropy(z + r * v, tops + 16 * r, g ? g + r * v : nullptr, v,
                                            target[first + r], inverse_scaling, scale);
      });
}

// The same for soft targets. `soft_cross_entropy` (soft_loss.cc) documents the arguments.
extern "C" void head_soft_cross_entropy_b16(const bf16* hidden, const bf16* forward,
                                            const bf16* backward, const int64_t* target,
                                            const int32_t* ids, const float* probs, float* hard,
                                            float* total, bf16* dhidden, float* dweight,
                                            int64_t rows, int64_t v, int64_t width, int64_t k,
                                            float inverse_scaling, float temperature, float mix,
                                            float scale) {
  run({hidden, forward, backward, dhidden, dweight, rows, v, width},
      [=](int64_t first, int64_t n, float* z, const float*, bf16* g) {
        soft_cross_entropy_f32(z, target + first, ids + first * k, probs + first * k, hard + first,
                               total + first, n, v, k, inverse_scaling, temperature, mix);
        if (g) to_bf16(z, g, n * v, scale);
      });
}

#endif
