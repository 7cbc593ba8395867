// Mamba-2, backward: the scan is run again, a chunk at a time from its kept state.
#include "mamba2.h"

using namespace itera;

namespace {

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
      vec in = get(x + at * stride + c), d{};
      for (int k = 0; k < TAPS; k++) {  // input ``at`` met tap k in step at + TAPS-1 - k
        d += weight[k] * past[TAPS - 1 - k];
        dweight[k] += in * past[TAPS - 1 - k];
      }
      put(dx + at * stride + c, d);
    }
    for (int k = 0; k < TAPS; k++) put(dconv + k * ch + c, dweight[k]);
    put(dbias + c, bias);
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
  int64_t steps = s.length, part = s.chunk * NB * LANES, whole = blocks * s.states * LANES;
  Scratch memory(Work::size(s) + steps * (2 * ch + 2 * inner + s.heads) + whole + 4 * part);
  Work k(s, memory);
  float *pre = memory.take(steps * ch), *du = memory.take(steps * ch);
  float *dy = memory.take(steps * inner), *dx = memory.take(steps * inner);
  float *ddecay = memory.take(steps * s.heads), *dh = memory.take(whole);
  float *h = memory.take(part), *trail = memory.take(part);
  float *dB = memory.take(part), *dC = memory.take(part);
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

}  // namespace

#define MAMBA2_GRAD(T, S)                                                                         \
  extern "C" void mamba2_grad_##S(const T* p, const Shape* s, const Weights* w, const T* kept_y,  \
                                  const float* rstd, const float* states, const T* dout,          \
                                  T* dprojected, float* dweights) {                               \
    if (s->states % 16 == 0)                                                                      \
      mamba2_grad<T, 16>(p, *s, *w, kept_y, rstd, states, dout, dprojected, dweights);            \
    else mamba2_grad<T, 8>(p, *s, *w, kept_y, rstd, states, dout, dprojected, dweights);          \
  }
ITERA_BOTH_TYPES(MAMBA2_GRAD)
