// What the two passes of Mamba-2 share: shapes, scratch memory, convolution, recurrence.
#pragma once

#include "common.h"

namespace itera {

struct Shape {  // of one call; the same order as in mamba2.py
  int64_t batch, length, heads, width, states, taps, chunk;
  float eps;
  int64_t inner() const { return heads * width; }
  int64_t channels() const { return inner() + 2 * states; }
  int64_t projected() const { return 2 * inner() + 2 * states + heads; }
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
      past[TAPS - 1] = get(x + t * stride + c);
      vec a = bias;
      for (int k = 0; k < TAPS; k++) a += weight[k] * past[k];
      if (pre) put(pre + t * ch + c, a);
      put(u + t * ch + c, a * sigmoid(a));
    }
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

}  // namespace itera
