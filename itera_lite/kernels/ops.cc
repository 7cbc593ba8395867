// Fused operations for training on a CPU: what lies between the matrix products.
//
// Plain C++17 with GCC/Clang vector types and OpenMP, no other headers, so that
// it compiles in seconds for the processor at hand. Called from ops.py through
// ctypes. Each has its naive oracle in itera_lite/model, and a test holds them
// equal. Results don't depend on the number of threads: sums over the batch are
// kept apart by sequence (or by block of rows) and added in a fixed order.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace {

using bf16 = uint16_t;
constexpr int LANES = 16;
typedef float vec __attribute__((vector_size(LANES * 4), aligned(4)));

inline float load(float v) { return v; }
inline float load(bf16 v) {
  uint32_t bits = uint32_t(v) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
template <typename T> inline T store(float v);
template <> inline float store<float>(float v) { return v; }
template <> inline bf16 store<bf16>(float v) {  // round to nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// exp with a relative error below 2e-7, in a form that compilers vectorise.
inline float fast_exp(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  float n = std::floor(x * 1.44269504088896341f + 0.5f);
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t scale = (int32_t(n) + 127) << 23;
  float s;
  std::memcpy(&s, &scale, 4);
  return p * s;
}
inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }
inline float softplus(float x) { return x > 20.0f ? x : std::log1p(fast_exp(x)); }

inline float sum(vec v) {
  typedef int ivec __attribute__((vector_size(LANES * 4)));
  v += __builtin_shuffle(v, ivec{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
  v += __builtin_shuffle(v, ivec{4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
  v += __builtin_shuffle(v, ivec{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
  return v[0] + v[1];
}
inline vec splat(float v) { return vec{} + v; }
inline vec get(const float* p) {
  vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void put(float* p, vec v) { std::memcpy(p, &v, sizeof v); }

// ---------------------------------------------------------------- RMS norm

constexpr int64_t ROWS = 64;  // rows whose weight gradients are summed together

// x += scale * add first, where ``add`` is given (the residual stream), then the norm.
template <typename X, typename Y>
void rms_norm(const X* x, const Y* add, float scale, const float* w, X* sum, Y* y, float* rstd,
              int64_t rows, int64_t d, float eps) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    const X* a = x + r * d;
    if (add) {
      const Y* b = add + r * d;
      X* o = sum + r * d;
#pragma omp simd
      for (int64_t i = 0; i < d; i++) o[i] = store<X>(load(a[i]) + scale * load(b[i]));
      a = o;
    }
    float ss = 0;
#pragma omp simd reduction(+ : ss)
    for (int64_t i = 0; i < d; i++) ss += load(a[i]) * load(a[i]);
    float s = 1.0f / std::sqrt(ss / float(d) + eps);
    rstd[r] = s;
#pragma omp simd
    for (int64_t i = 0; i < d; i++) y[r * d + i] = store<Y>(load(a[i]) * s * w[i]);
  }
}

// x: what was normalised. dsum: the gradient that reaches it past the norm, or null.
// dx: its whole gradient; dadd: scale times that, where given.
template <typename X, typename Y>
void rms_norm_grad(const X* x, const float* w, const float* rstd, const Y* dy, const X* dsum,
                   float scale, X* dx, Y* dadd, float* dw, int64_t rows, int64_t d) {
  int64_t blocks = (rows + ROWS - 1) / ROWS;
  std::vector<float> part(blocks * d, 0.0f);
#pragma omp parallel for schedule(static)
  for (int64_t b = 0; b < blocks; b++) {
    float* pw = part.data() + b * d;
    int64_t end = b * ROWS + ROWS < rows ? b * ROWS + ROWS : rows;
    for (int64_t r = b * ROWS; r < end; r++) {
      const X* a = x + r * d;
      const Y* g = dy + r * d;
      X* o = dx + r * d;
      float s = rstd[r], dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < d; i++) dot += load(g[i]) * w[i] * load(a[i]);
      float c = dot * s * s * s / float(d);
#pragma omp simd
      for (int64_t i = 0; i < d; i++) {
        float gi = load(g[i]), xi = load(a[i]);
        pw[i] += gi * xi * s;
        o[i] = store<X>(gi * w[i] * s - xi * c);
      }
      if (dsum)
#pragma omp simd
        for (int64_t i = 0; i < d; i++) o[i] = store<X>(load(o[i]) + load(dsum[r * d + i]));
      if (dadd)
#pragma omp simd
        for (int64_t i = 0; i < d; i++) dadd[r * d + i] = store<Y>(scale * load(o[i]));
    }
  }
  for (int64_t b = 0; b < blocks; b++)
    for (int64_t i = 0; i < d; i++) dw[i] += part[b * d + i];
}

// ---------------------------------------------------------------- SwiGLU

template <typename T> void gated_silu(const T* gu, T* y, int64_t rows, int64_t f) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    const T *g = gu + r * 2 * f, *u = g + f;
#pragma omp simd
    for (int64_t i = 0; i < f; i++) {
      float a = load(g[i]);
      y[r * f + i] = store<T>(a * sigmoid(a) * load(u[i]));
    }
  }
}

template <typename T>
void gated_silu_grad(const T* gu, const T* dy, T* dgu, int64_t rows, int64_t f) {
#pragma omp parallel for schedule(static)
  for (int64_t r = 0; r < rows; r++) {
    const T *g = gu + r * 2 * f, *u = g + f;
    T *dg = dgu + r * 2 * f, *du = dg + f;
#pragma omp simd
    for (int64_t i = 0; i < f; i++) {
      float a = load(g[i]), s = sigmoid(a), d = load(dy[r * f + i]);
      dg[i] = store<T>(d * load(u[i]) * s * (1.0f + a * (1.0f - s)));
      du[i] = store<T>(d * a * s);
    }
  }
}

// ---------------------------------------------------------------- router

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
  int64_t blocks = (tokens + ROWS - 1) / ROWS;
  std::vector<float> part(blocks * experts, 0.0f);
#pragma omp parallel
  {
    std::vector<float> prob(experts), top(k);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < blocks; b++) {
      int64_t end = b * ROWS + ROWS < tokens ? b * ROWS + ROWS : tokens;
      for (int64_t t = b * ROWS; t < end; t++) {
        const float* a = logits + t * experts;
        softmax_row(a, prob.data(), experts);
        for (int64_t e = 0; e < experts; e++) part[b * experts + e] += prob[e];
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
    }
  }
  for (int64_t e = 0; e < experts; e++) {
    float total = 0;
    for (int64_t b = 0; b < blocks; b++) total += part[b * experts + e];
    mean[e] = total / float(tokens);
  }
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
#pragma omp parallel
  {
    std::vector<float> prob(experts);
#pragma omp for schedule(static)
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
}

// ---------------------------------------------------------------- experts

// Rows of x (T, D) to slots: slot[t*k+j] says where token t goes for its j-th expert.
template <typename T>
void scatter(const T* x, const int64_t* slot, const float* gate, T* out, int64_t tokens, int64_t k,
             int64_t d) {
#pragma omp parallel for schedule(static)
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
#pragma omp parallel for schedule(static)
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
#pragma omp parallel for schedule(static)
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t j = 0; j < k; j++) {
      const T* a = y + slot[t * k + j] * d;
      float s = 0;
#pragma omp simd reduction(+ : s)
      for (int64_t i = 0; i < d; i++) s += load(a[i]) * load(dout[t * d + i]);
      dgate[t * k + j] = s;
    }
}

// ---------------------------------------------------------------- attention

// One row of the fused projection (B, L, H + 2 Hkv heads of P) and heads apart:
// q (B, H, L, P), k and v (B, Hkv, L, P). With cos and sin (L, P): q and k are turned
// by their rotary angles on the way. SPLIT false: the other way, by the inverse angles.
template <typename T, bool SPLIT>
void heads(T* row, const float* cs, const float* sn, T* q, T* k, T* v, int64_t batch,
           int64_t length, int64_t n_heads, int64_t n_kv, int64_t p) {
  int64_t all = n_heads + 2 * n_kv, half = p / 2;
#pragma omp parallel for schedule(static) collapse(2)
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
#pragma omp parallel
  {
    std::vector<float> row(length);
    float* e = row.data();
#pragma omp for schedule(static)
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
}

// Its gradient, in the place of ``dprobs``: scale * p * (dp - sum(p * dp)).
template <typename T>
void causal_softmax_grad(const T* probs, T* dprobs, int64_t rows, int64_t length, float scale) {
#pragma omp parallel for schedule(static)
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

// ---------------------------------------------------------------- cross-entropy

// logits (rows, V) -> their gradient in place, times ``scale``; loss[r] in nats.
template <typename T>
void cross_entropy(T* logits, const int64_t* target, float* loss, int64_t rows, int64_t v,
                   float inverse_scaling, float scale) {
#pragma omp parallel
  {
    std::vector<float> row(v);
    float* e = row.data();
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
      T* a = logits + r * v;
      float top = -INFINITY;
#pragma omp simd reduction(max : top)
      for (int64_t i = 0; i < v; i++) {
        e[i] = load(a[i]) * inverse_scaling;
        top = e[i] > top ? e[i] : top;
      }
      float correct = e[target[r]], total = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t i = 0; i < v; i++) {
        e[i] = fast_exp(e[i] - top);
        total += e[i];
      }
      loss[r] = std::log(total) + top - correct;
      float s = scale * inverse_scaling, inv = s / total;
      float at = e[target[r]] * inv - s;
#pragma omp simd
      for (int64_t i = 0; i < v; i++) a[i] = store<T>(e[i] * inv);
      a[target[r]] = store<T>(at);
    }
  }
}

// ---------------------------------------------------------------- Mamba-2

struct Shape {  // of one call; the same order as in ops.py
  int64_t batch, length, heads, width, states, taps, chunk;
  float eps;
  int64_t inner() const { return heads * width; }
  int64_t channels() const { return inner() + 2 * states; }
  int64_t projected() const { return 2 * inner() + 2 * states + heads; }
};

// Memory of a thread that is kept from call to call, handed out in pieces.
struct Scratch {
  static std::vector<float>& memory() {
    static thread_local std::vector<float> kept;
    return kept;
  }
  float* next;
  explicit Scratch(size_t total) {
    if (memory().size() < total) memory().resize(total);
    next = memory().data();
  }
  float* take(size_t n) {
    next += n;
    return next - n;
  }
};

// What one sequence needs on the way: convolved inputs, step sizes, outputs.
struct Work {
  float *u, *dt, *decay, *y, *rate;
  static size_t size(const Shape& s) {
    return s.length * (s.channels() + 2 * s.heads + s.inner()) + s.heads;
  }
  Work(const Shape& s, Scratch& m)
      : u(m.take(s.length * s.channels())), dt(m.take(s.length * s.heads)),
        decay(m.take(s.length * s.heads)), y(m.take(s.length * s.inner())),
        rate(m.take(s.heads)) {}
};

struct Weights {
  const float *conv, *conv_bias, *dt_bias, *a_log, *d, *norm;  // conv is (taps, channels)
};

typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef uint32_t uvec __attribute__((vector_size(LANES * 4)));
typedef uint16_t hvec __attribute__((vector_size(LANES * 2)));

inline vec get_as(const float* p) { return get(p); }
inline vec get_as(const bf16* p) {
  hvec v;
  std::memcpy(&v, p, sizeof v);
  return (vec)(__builtin_convertvector(v, uvec) << 16);
}
inline void put_as(float* p, vec v) { put(p, v); }
inline void put_as(bf16* p, vec v) {
  uvec bits = (uvec)v;
  hvec h = __builtin_convertvector((bits + 0x7fff + ((bits >> 16) & 1)) >> 16, hvec);
  std::memcpy(p, &h, sizeof h);
}
inline vec sigmoid(vec x) {  // as the scalar one
  float lane[LANES];
  put(lane, x);
#pragma omp simd
  for (int i = 0; i < LANES; i++) lane[i] = sigmoid(lane[i]);
  return get(lane);
}

// Convolution and SiLU, 16 channels at a time over all steps: ``u``, and ``pre`` before the SiLU.
// before (channels, taps - 1): the inputs that came before the first step, or null.
template <typename T, int TAPS>
void convolve(const T* x, const Shape& s, const Weights& w, float* u, float* pre,
              const float* before) {
  int64_t ch = s.channels(), stride = s.projected();
  for (int64_t c = 0; c + LANES <= ch; c += LANES) {
    vec weight[TAPS], past[TAPS] = {}, bias = get(w.conv_bias + c);
    for (int k = 0; k < TAPS; k++) weight[k] = get(w.conv + k * ch + c);
    if (before)
      for (int k = 1; k < TAPS; k++)
        for (int i = 0; i < LANES; i++) past[k][i] = before[(c + i) * (TAPS - 1) + k - 1];
    for (int64_t t = 0; t < s.length; t++) {
      for (int k = 0; k + 1 < TAPS; k++) past[k] = past[k + 1];
      past[TAPS - 1] = get_as(x + t * stride + c);
      vec a = bias;
      for (int k = 0; k < TAPS; k++) a += weight[k] * past[k];
      if (pre) put(pre + t * ch + c, a);
      put(u + t * ch + c, a * sigmoid(a));
    }
  }
}

// The way back: ``g``, the gradient by ``pre``, to the inputs and the weights.
template <typename T, int TAPS>
void convolve_grad(const T* x, const float* g, const Shape& s, const Weights& w, T* dx,
                   float* dconv, float* dbias) {
  int64_t ch = s.channels(), stride = s.projected();
  for (int64_t c = 0; c + LANES <= ch; c += LANES) {
    vec weight[TAPS], past[TAPS] = {}, dweight[TAPS] = {}, bias{};
    for (int k = 0; k < TAPS; k++) weight[k] = get(w.conv + k * ch + c);
    for (int64_t t = 0; t < s.length + TAPS - 1; t++) {  // past: gradients of the last steps
      for (int k = 0; k + 1 < TAPS; k++) past[k] = past[k + 1];
      past[TAPS - 1] = t < s.length ? get(g + t * ch + c) : vec{};
      bias += past[TAPS - 1];
      int64_t at = t - (TAPS - 1);
      if (at < 0) continue;
      vec in = get_as(x + at * stride + c), d{};
      for (int k = 0; k < TAPS; k++) {  // input ``at`` met tap k in step at + TAPS-1 - k
        d += weight[k] * past[TAPS - 1 - k];
        dweight[k] += in * past[TAPS - 1 - k];
      }
      put_as(dx + at * stride + c, d);
    }
    for (int k = 0; k < TAPS; k++) put(dconv + k * ch + c, dweight[k]);
    put(dbias + c, bias);
  }
}

template <typename T>
void prepare(const T* projected, const Shape& s, const Weights& w, Work& k, float* pre,
             const float* before) {
  const T *xbc = projected + s.inner(), *raw = xbc + s.channels();
  if (s.taps == 4) convolve<T, 4>(xbc, s, w, k.u, pre, before);
  else if (s.taps == 3) convolve<T, 3>(xbc, s, w, k.u, pre, before);
  else convolve<T, 2>(xbc, s, w, k.u, pre, before);
  for (int64_t h = 0; h < s.heads; h++) k.rate[h] = -std::exp(w.a_log[h]);
  for (int64_t t = 0; t < s.length; t++)
    for (int64_t h = 0; h < s.heads; h++) {
      float dt = softplus(load(raw[t * s.projected() + h]) + w.dt_bias[h]);
      k.dt[t * s.heads + h] = dt;
      k.decay[t * s.heads + h] = fast_exp(dt * k.rate[h]);
    }
}

// The recurrence over [begin, end) for 16 channels and NB states from ``h`` on.
// With ``trail``: every state on the way is written there (step, state, lane).
template <int NB, bool OUTPUT>
void run(const Shape& s, const Work& k, int64_t head, int64_t channel, int64_t first_state,
         int64_t begin, int64_t end, float* state, float* y, float* trail) {
  int64_t ch = s.channels(), inner = s.inner();
  vec h[NB];
#pragma GCC unroll 16
  for (int n = 0; n < NB; n++) h[n] = get(state + n * LANES);
  for (int64_t t = begin; t < end; t++) {
    const float* u = k.u + t * ch;
    const float *B = u + inner + first_state, *C = B + s.states;
    vec a = splat(k.decay[t * s.heads + head]);
    vec x = get(u + channel) * k.dt[t * s.heads + head];
    vec out0{}, out1{};
#pragma GCC unroll 16
    for (int n = 0; n < NB; n += 2) {
      h[n] = h[n] * a + x * B[n];
      h[n + 1] = h[n + 1] * a + x * B[n + 1];
      if (OUTPUT) {
        out0 += h[n] * C[n];
        out1 += h[n + 1] * C[n + 1];
      }
    }
    if (OUTPUT) {
      float* o = y + t * inner + channel;
      put(o, get(o) + out0 + out1);
    }
    if (trail)
#pragma GCC unroll 16
      for (int n = 0; n < NB; n++) put(trail + ((t - begin) * NB + n) * LANES, h[n]);
  }
#pragma GCC unroll 16
  for (int n = 0; n < NB; n++) put(state + n * LANES, h[n]);
}

// states: per sequence [chunk][block of 16 channels][N][16], what each chunk began with.
// conv (B, channels, taps - 1) and ssm (B, inner, N): what came before, or null for nothing;
// ssm is left as the last step leaves it.
template <typename T, int NB>
void mamba2(const T* projected, const Shape& s, const Weights& w, T* out, T* kept_y, float* rstd,
            float* states, const float* conv, float* ssm) {
  int64_t inner = s.inner(), ch = s.channels(), blocks = inner / LANES;
  int64_t chunks = (s.length + s.chunk - 1) / s.chunk;
#pragma omp parallel
  {
    Scratch memory(Work::size(s) + s.states * LANES);
    Work k(s, memory);
    float* h = memory.take(s.states * LANES);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < s.batch; b++) {
      const T* p = projected + b * s.length * s.projected();
      prepare(p, s, w, k, nullptr, conv ? conv + b * ch * (s.taps - 1) : nullptr);
      for (int64_t t = 0; t < s.length; t++)
        for (int64_t head = 0; head < s.heads; head++)
#pragma omp simd
          for (int64_t i = 0; i < s.width; i++)
            k.y[t * inner + head * s.width + i] = w.d[head] * k.u[t * ch + head * s.width + i];
      for (int64_t block = 0; block < blocks; block++) {
        int64_t channel = block * LANES, head = channel / s.width;
        float* own = ssm ? ssm + (b * inner + channel) * s.states : nullptr;
        for (int64_t n = 0; n < s.states; n++)
          for (int64_t i = 0; i < LANES; i++) h[n * LANES + i] = own ? own[i * s.states + n] : 0;
        for (int64_t c = 0; c < chunks; c++) {
          int64_t begin = c * s.chunk;
          int64_t end = begin + s.chunk < s.length ? begin + s.chunk : s.length;
          if (states)
            std::memcpy(states + ((b * chunks + c) * blocks + block) * s.states * LANES, h,
                        s.states * LANES * 4);
          for (int64_t n = 0; n < s.states; n += NB)
            run<NB, true>(s, k, head, channel, n, begin, end, h + n * LANES, k.y, nullptr);
        }
        for (int64_t n = 0; own && n < s.states; n++)
          for (int64_t i = 0; i < LANES; i++) own[i * s.states + n] = h[n * LANES + i];
      }
      for (int64_t t = 0; t < s.length; t++) {
        const T* z = p + t * s.projected();
        float* y = k.y + t * inner;
        int64_t row = b * s.length + t;
        float ss = 0;
        if (kept_y)
#pragma omp simd
          for (int64_t i = 0; i < inner; i++) kept_y[row * inner + i] = store<T>(y[i]);
#pragma omp simd reduction(+ : ss)
        for (int64_t i = 0; i < inner; i++) {
          float g = load(z[i]);
          y[i] *= g * sigmoid(g);
          ss += y[i] * y[i];
        }
        float r = 1.0f / std::sqrt(ss / float(inner) + s.eps);
        if (rstd) rstd[row] = r;
#pragma omp simd
        for (int64_t i = 0; i < inner; i++) out[row * inner + i] = store<T>(y[i] * r * w.norm[i]);
      }
    }
  }
}

// One chunk of the backward recurrence for 16 channels and NB states.
// trail: the states h_t of the chunk; before: the state that it began with;
// dh: in, the gradient by the state after the chunk; out, by the state before it.
template <int NB>
void run_grad(const Shape& s, const Work& k, int64_t head, int64_t channel, int64_t first_state,
              int64_t begin, int64_t end, const float* before, const float* trail, float* dh_,
              const float* dy, float* dx, float* ddecay, float* dB, float* dC) {
  int64_t ch = s.channels(), inner = s.inner();
  vec dh[NB];
#pragma GCC unroll 16
  for (int n = 0; n < NB; n++) dh[n] = get(dh_ + n * LANES);
  for (int64_t t = end - 1; t >= begin; t--) {
    const float* u = k.u + t * ch;
    const float *B = u + inner + first_state, *C = B + s.states;
    vec a = splat(k.decay[t * s.heads + head]);
    vec x = get(u + channel) * k.dt[t * s.heads + head];
    vec g = get(dy + t * inner + channel);
    vec gx0{}, gx1{}, ga0{}, ga1{};
    const float* now = trail + (t - begin) * NB * LANES;
    const float* last = t > begin ? now - NB * LANES : before;
    float* accB = dB + (t - begin) * NB * LANES;
    float* accC = dC + (t - begin) * NB * LANES;
#pragma GCC unroll 16
    for (int n = 0; n < NB; n += 2) {
      dh[n] += g * C[n];
      dh[n + 1] += g * C[n + 1];
      put(accC + n * LANES, get(accC + n * LANES) + g * get(now + n * LANES));
      put(accC + (n + 1) * LANES, get(accC + (n + 1) * LANES) + g * get(now + (n + 1) * LANES));
      put(accB + n * LANES, get(accB + n * LANES) + x * dh[n]);
      put(accB + (n + 1) * LANES, get(accB + (n + 1) * LANES) + x * dh[n + 1]);
      gx0 += dh[n] * B[n];
      gx1 += dh[n + 1] * B[n + 1];
      ga0 += dh[n] * get(last + n * LANES);
      ga1 += dh[n + 1] * get(last + (n + 1) * LANES);
      dh[n] *= a;
      dh[n + 1] *= a;
    }
    float* o = dx + t * inner + channel;
    put(o, get(o) + gx0 + gx1);
    ddecay[t * s.heads + head] += sum(ga0 + ga1);
  }
#pragma GCC unroll 16
  for (int n = 0; n < NB; n++) put(dh_ + n * LANES, dh[n]);
}

// Per-sequence gradients of the weights: conv (taps, channels), conv_bias, dt_bias, a_log, d, norm.
template <typename T, int NB>
void mamba2_grad(const T* projected, const Shape& s, const Weights& w, const T* kept_y,
                 const float* rstd, const float* states, const T* dout, T* dprojected,
                 float* dweights) {
  int64_t inner = s.inner(), ch = s.channels(), blocks = inner / LANES;
  int64_t chunks = (s.length + s.chunk - 1) / s.chunk;
  int64_t size = ch * (s.taps + 1) + 3 * s.heads + inner;
#pragma omp parallel
  {
    int64_t steps = s.length, part = s.chunk * NB * LANES, whole = blocks * s.states * LANES;
    Scratch memory(Work::size(s) + steps * (2 * ch + 2 * inner + s.heads) + whole + 4 * part);
    Work k(s, memory);
    float *pre = memory.take(steps * ch), *du = memory.take(steps * ch);
    float *dy = memory.take(steps * inner), *dx = memory.take(steps * inner);
    float *ddecay = memory.take(steps * s.heads), *dh = memory.take(whole);
    float *h = memory.take(part), *trail = memory.take(part);
    float *dB = memory.take(part), *dC = memory.take(part);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < s.batch; b++) {
      const T* p = projected + b * s.length * s.projected();
      T* dp = dprojected + b * s.length * s.projected();
      float* dw = dweights + b * size;
      float *dconv = dw, *dconv_bias = dconv + ch * s.taps, *ddt_bias = dconv_bias + ch;
      float *da_log = ddt_bias + s.heads, *dd = da_log + s.heads, *dnorm = dd + s.heads;
      prepare(p, s, w, k, pre, nullptr);

      // Norm and gate: out = norm * g * rstd with g = y * silu(z).
      for (int64_t t = 0; t < s.length; t++) {
        int64_t row = b * s.length + t;
        const T *z = p + t * s.projected(), *y = kept_y + row * inner, *o = dout + row * inner;
        T* dz = dp + t * s.projected();
        float r = rstd[row], dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < inner; i++) {
          float zi = load(z[i]), g = load(y[i]) * zi * sigmoid(zi);
          dot += load(o[i]) * w.norm[i] * g;
          dnorm[i] += load(o[i]) * g * r;
        }
        float c = dot * r * r * r / float(inner);
#pragma omp simd
        for (int64_t i = 0; i < inner; i++) {
          float zi = load(z[i]), q = sigmoid(zi), yi = load(y[i]);
          float dg = load(o[i]) * w.norm[i] * r - yi * zi * q * c;
          dy[t * inner + i] = dg * zi * q;
          dz[i] = store<T>(dg * yi * q * (1.0f + zi * (1.0f - q)));
        }
      }

      std::memset(dx, 0, steps * inner * 4);
      std::memset(ddecay, 0, steps * s.heads * 4);
      std::memset(dh, 0, whole * 4);
      for (int64_t c = chunks - 1; c >= 0; c--) {
        int64_t begin = c * s.chunk;
        int64_t end = begin + s.chunk < s.length ? begin + s.chunk : s.length;
        for (int64_t n = 0; n < s.states; n += NB) {
          std::memset(dB, 0, part * 4);
          std::memset(dC, 0, part * 4);
          for (int64_t block = 0; block < blocks; block++) {
            int64_t channel = block * LANES, head = channel / s.width;
            const float* before =
                states + (((b * chunks + c) * blocks + block) * s.states + n) * LANES;
            std::memcpy(h, before, NB * LANES * 4);
            run<NB, false>(s, k, head, channel, n, begin, end, h, nullptr, trail);
            run_grad<NB>(s, k, head, channel, n, begin, end, before, trail,
                         dh + (block * s.states + n) * LANES, dy, dx, ddecay, dB, dC);
          }
          for (int64_t t = begin; t < end; t++)
            for (int64_t i = 0; i < NB; i++) {
              int64_t at = ((t - begin) * NB + i) * LANES;
              du[t * ch + inner + n + i] = sum(get(dB + at));
              du[t * ch + inner + s.states + n + i] = sum(get(dC + at));
            }
        }
      }

      // Step sizes, the skip D, and the inputs of the recurrence.
      for (int64_t t = 0; t < s.length; t++) {
        const T* raw = p + t * s.projected() + inner + ch;
        T* draw = dp + t * s.projected() + inner + ch;
        for (int64_t head = 0; head < s.heads; head++) {
          int64_t at = t * s.heads + head;
          float dt = k.dt[at], by_dt = 0, by_d = 0;
          const float* u = k.u + t * ch + head * s.width;
          const float* gx = dx + t * inner + head * s.width;
          const float* gy = dy + t * inner + head * s.width;
          float* out = du + t * ch + head * s.width;
#pragma omp simd reduction(+ : by_dt, by_d)
          for (int64_t i = 0; i < s.width; i++) {
            by_dt += gx[i] * u[i];
            by_d += gy[i] * u[i];
            out[i] = gx[i] * dt + gy[i] * w.d[head];
          }
          dd[head] += by_d;
          float by_log = ddecay[at] * k.decay[at];
          da_log[head] += by_log * dt * k.rate[head];
          float g = (by_dt + by_log * k.rate[head]) *
                    sigmoid(load(raw[head]) + w.dt_bias[head]);
          ddt_bias[head] += g;
          draw[head] = store<T>(g);
        }
      }

      // SiLU and convolution.
#pragma omp simd
      for (int64_t i = 0; i < steps * ch; i++) {
        float q = sigmoid(pre[i]);
        du[i] *= q * (1.0f + pre[i] * (1.0f - q));
      }
      if (s.taps == 4) convolve_grad<T, 4>(p + inner, du, s, w, dp + inner, dconv, dconv_bias);
      else if (s.taps == 3) convolve_grad<T, 3>(p + inner, du, s, w, dp + inner, dconv, dconv_bias);
      else convolve_grad<T, 2>(p + inner, du, s, w, dp + inner, dconv, dconv_bias);
    }
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

// Every other function comes for float32 (f32) and bfloat16 (b16).
#define BOTH(T, S)                                                                                \
  extern "C" void gated_silu_##S(const T* gu, T* y, int64_t rows, int64_t f) {                    \
    gated_silu(gu, y, rows, f);                                                                   \
  }                                                                                               \
  extern "C" void gated_silu_grad_##S(const T* gu, const T* dy, T* dgu, int64_t rows,             \
                                      int64_t f) {                                                \
    gated_silu_grad(gu, dy, dgu, rows, f);                                                        \
  }                                                                                               \
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
  }                                                                                               \
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
  }                                                                                               \
  extern "C" void cross_entropy_##S(T* logits, const int64_t* target, float* loss, int64_t rows,  \
                                    int64_t v, float inverse_scaling, float scale) {              \
    cross_entropy(logits, target, loss, rows, v, inverse_scaling, scale);                         \
  }                                                                                               \
  extern "C" void mamba2_##S(const T* p, const Shape* s, const Weights* w, T* out, T* kept_y,     \
                             float* rstd, float* states, const float* conv, float* ssm) {         \
    if (s->states % 16 == 0) mamba2<T, 16>(p, *s, *w, out, kept_y, rstd, states, conv, ssm);      \
    else mamba2<T, 8>(p, *s, *w, out, kept_y, rstd, states, conv, ssm);                           \
  }                                                                                               \
  extern "C" void mamba2_grad_##S(const T* p, const Shape* s, const Weights* w, const T* kept_y,  \
                                  const float* rstd, const float* states, const T* dout,          \
                                  T* dprojected, float* dweights) {                               \
    if (s->states % 16 == 0)                                                                      \
      mamba2_grad<T, 16>(p, *s, *w, kept_y, rstd, states, dout, dprojected, dweights);            \
    else mamba2_grad<T, 8>(p, *s, *w, kept_y, rstd, states, dout, dprojected, dweights);          \
  }
BOTH(float, f32)
BOTH(bf16, b16)

#define NORM(X, Y, S)                                                                             \
  extern "C" void rms_norm_##S(const X* x, const Y* add, float scale, const float* w, X* sum,     \
                               Y* y, float* rstd, int64_t rows, int64_t d, float eps) {           \
    rms_norm(x, add, scale, w, sum, y, rstd, rows, d, eps);                                       \
  }                                                                                               \
  extern "C" void rms_norm_grad_##S(const X* x, const float* w, const float* rstd, const Y* dy,   \
                                    const X* dsum, float scale, X* dx, Y* dadd, float* dw,        \
                                    int64_t rows, int64_t d) {                                    \
    rms_norm_grad(x, w, rstd, dy, dsum, scale, dx, dadd, dw, rows, d);                            \
  }
NORM(float, float, f32_f32)
NORM(float, bf16, f32_b16)
NORM(bf16, bf16, b16_b16)
NORM(bf16, float, b16_f32)
