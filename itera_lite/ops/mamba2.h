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

// What a chunk of steps needs on the way: convolved inputs, step sizes.
struct Work {
  float *u, *dt, *decay, *rate;
  static size_t size(const Shape& s) {
    return s.chunk * (s.channels() + 2 * s.heads) + s.heads;
  }
  Work(const Shape& s, Scratch& m)
      : u(m.take(s.chunk * s.channels())), dt(m.take(s.chunk * s.heads)),
        decay(m.take(s.chunk * s.heads)), rate(m.take(s.heads)) {}
};

struct Weights {
  const float *conv, *conv_bias, *dt_bias, *a_log, *d, *norm;  // conv is (taps, channels)
};

// Convolution and SiLU of the steps [begin, end), `LANES` channels at a time: ``u``, from the first
// of these steps on, and the derivatives of the SiLU where ``slope`` is given.
// before (channels, taps - 1): the inputs that came before step 0, or null.
template <typename T, int TAPS>
void convolve(const T* x, const Shape& s, const Weights& w, int64_t begin, int64_t end, float* u,
              float* slope, const float* before) {
  int64_t ch = s.channels(), stride = s.projected();
  for (int64_t c = 0; c + LANES <= ch; c += LANES) {
    vec weight[TAPS], past[TAPS] = {}, bias = get(w.conv_bias + c);
    for (int k = 0; k < TAPS; k++) weight[k] = get(w.conv + k * ch + c);
    for (int k = 1; k < TAPS; k++) {
      int64_t t = begin - TAPS + k;
      if (t >= 0) past[k] = get(x + t * stride + c);
      else if (before)
        for (int i = 0; i < LANES; i++) past[k][i] = before[(c + i) * (TAPS - 1) + TAPS - 1 + t];
    }
    for (int64_t t = begin; t < end; t++) {
      for (int k = 0; k + 1 < TAPS; k++) past[k] = past[k + 1];
      past[TAPS - 1] = get(x + t * stride + c);
      vec a = bias;
      for (int k = 0; k < TAPS; k++) a += weight[k] * past[k];
      vec q = sigmoid(a);
      int64_t at = (t - begin) * ch + c;
      if (slope) put(slope + at, q * (1.0f + a * (1.0f - q)));
      put(u + at, a * q);
    }
  }
}

// The inputs of the recurrence over the steps [begin, end). dt_slope: the derivatives of the step
// sizes by what they were made from, where given.
template <typename T>
void prepare(const T* projected, const Shape& s, const Weights& w, int64_t begin, int64_t end,
             Work& k, float* slope, float* dt_slope, const float* before) {
  const T *xbc = projected + s.inner(), *raw = xbc + s.channels();
  if (s.taps == 4) convolve<T, 4>(xbc, s, w, begin, end, k.u, slope, before);
  else if (s.taps == 3) convolve<T, 3>(xbc, s, w, begin, end, k.u, slope, before);
  else convolve<T, 2>(xbc, s, w, begin, end, k.u, slope, before);
  int64_t size = (end - begin) * s.heads;
  for (int64_t t = begin; t < end; t++)
    for (int64_t h = 0; h < s.heads; h++)
      k.dt[(t - begin) * s.heads + h] = load(raw[t * s.projected() + h]) + w.dt_bias[h];
  if (dt_slope)
#pragma omp simd
    for (int64_t i = 0; i < size; i++) dt_slope[i] = sigmoid(k.dt[i]);
#pragma omp simd
  for (int64_t i = 0; i < size; i++) k.dt[i] = softplus(k.dt[i]);
  for (int64_t t = 0; t < end - begin; t++)
    for (int64_t h = 0; h < s.heads; h++)
      k.decay[t * s.heads + h] = k.dt[t * s.heads + h] * k.rate[h];
#pragma omp simd
  for (int64_t i = 0; i < size; i++) k.decay[i] = fast_exp(k.decay[i]);
}

// The recurrence over the ``steps`` of a chunk for `LANES` channels and NB states, from
// ``first_state`` on. OUTPUT: what the states give is added to out (step, inner); without, every
// state on the way is written to out (step, NB, lane).
template <int NB, bool OUTPUT>
void run(const Shape& s, const Work& k, int64_t head, int64_t channel, int64_t first_state,
         int64_t steps, float* state, float* out) {
  int64_t ch = s.channels(), inner = s.inner();
  vec h[NB];
#pragma GCC unroll 16
  for (int n = 0; n < NB; n++) h[n] = get(state + n * LANES);
  for (int64_t t = 0; t < steps; t++) {
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
      float* o = out + t * inner + channel;
      put(o, get(o) + out0 + out1);
    } else {
#pragma GCC unroll 16
      for (int n = 0; n < NB; n++) put(out + (t * NB + n) * LANES, h[n]);
    }
  }
#pragma GCC unroll 16
  for (int n = 0; n < NB; n++) put(state + n * LANES, h[n]);
}

}  // namespace itera
