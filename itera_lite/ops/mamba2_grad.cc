// Mamba-2, backward: the scan is run again, a chunk at a time from its kept state.
#include "mamba2.h"

using namespace itera;

namespace {

// The way back of the convolution, for the ``steps`` inputs from ``x`` on. g (step, channel): the
// gradient by what it gives, of these steps and of the TAPS - 1 after them.
template <typename T, int TAPS>
void convolve_grad(const T* x, const float* g, const Shape& s, const Weights& w, int64_t steps,
                   T* dx, float* dconv, float* dbias) {
  int64_t ch = s.channels(), stride = s.projected();
  for (int64_t c = 0; c + LANES <= ch; c += LANES) {
    vec weight[TAPS], ahead[TAPS], dweight[TAPS], bias = get(dbias + c);
    for (int k = 0; k < TAPS; k++) {
      weight[k] = get(w.conv + k * ch + c);
      dweight[k] = get(dconv + k * ch + c);
    }
    for (int k = 1; k < TAPS; k++) ahead[k] = get(g + (k - 1) * ch + c);
    for (int64_t t = 0; t < steps; t++) {
      for (int k = 0; k + 1 < TAPS; k++) ahead[k] = ahead[k + 1];
      ahead[TAPS - 1] = get(g + (t + TAPS - 1) * ch + c);
      vec in = get(x + t * stride + c), d{};
      bias += ahead[0];
      for (int k = 0; k < TAPS; k++) {  // input t met tap k in step t + TAPS-1 - k
        d += weight[k] * ahead[TAPS - 1 - k];
        dweight[k] += in * ahead[TAPS - 1 - k];
      }
      put(dx + t * stride + c, d);
    }
    for (int k = 0; k < TAPS; k++) put(dconv + k * ch + c, dweight[k]);
    put(dbias + c, bias);
  }
}

// Gradients on the way through a chunk: by u, step sizes (as they scale u) and decays, and by D.
struct Grads {
  float *du, *ddt, *ddecay, *dd;
};

// The backward recurrence over the ``steps`` of a chunk for W times `LANES` channels of a head and
// NB states. before (W, states, lane): the states that the chunk began with; trail (W, chunk, NB,
// lane): those on the way; dh, as ``before``: in, the gradient by the states after the chunk; out,
// by the states before it. dB, dC (step, NB, lane): added up over the channels.
template <int NB, int W>
void run_grad(const Shape& s, const Work& k, int64_t head, int64_t channel, int64_t first_state,
              int64_t steps, const float* before, const float* trail, float* dh_, const float* dy,
              float d, const Grads& grads, float* dB, float* dC) {
  int64_t ch = s.channels(), inner = s.inner(), part = s.chunk * NB * LANES;
  int64_t apart = s.states * LANES;
  vec dh[W][NB], by_d{};
#pragma GCC unroll 2
  for (int v = 0; v < W; v++)
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) dh[v][n] = get(dh_ + v * apart + n * LANES);
  for (int64_t t = steps - 1; t >= 0; t--) {
    const float* u = k.u + t * ch;
    const float *B = u + inner + first_state, *C = B + s.states;
    const int64_t at = t * s.heads + head;
    vec a = splat(k.decay[at]), dt = splat(k.dt[at]), in[W], x[W], g[W], gx[W] = {}, ga[W] = {};
    const float *now[W], *last[W];
#pragma GCC unroll 2
    for (int v = 0; v < W; v++) {
      in[v] = get(u + channel + v * LANES);
      x[v] = in[v] * dt;
      g[v] = get(dy + t * inner + channel + v * LANES);
      now[v] = trail + v * part + t * NB * LANES;
      last[v] = t ? now[v] - NB * LANES : before + v * apart;
    }
    float *accB = dB + t * NB * LANES, *accC = dC + t * NB * LANES;
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) {
      vec sumB = get(accB + n * LANES), sumC = get(accC + n * LANES);
      vec b = splat(B[n]), c = splat(C[n]);
#pragma GCC unroll 2
      for (int v = 0; v < W; v++) {
        vec grad = dh[v][n] + g[v] * c;
        sumC += g[v] * get(now[v] + n * LANES);
        sumB += x[v] * grad;
        gx[v] += grad * b;
        ga[v] += grad * get(last[v] + n * LANES);
        dh[v][n] = grad * a;
      }
      put(accB + n * LANES, sumB);
      put(accC + n * LANES, sumC);
    }
    vec by_dt{}, by_decay{};
#pragma GCC unroll 2
    for (int v = 0; v < W; v++) {
      float* o = grads.du + t * ch + channel + v * LANES;
      if (first_state == 0) {
        put(o, gx[v] * dt + g[v] * d);
        by_d += g[v] * in[v];
      } else {
        put(o, get(o) + gx[v] * dt);
      }
      by_dt += gx[v] * in[v];
      by_decay += ga[v];
    }
    grads.ddt[at] += sum(by_dt);
    grads.ddecay[at] += sum(by_decay);
  }
  grads.dd[head] += sum(by_d);
#pragma GCC unroll 2
  for (int v = 0; v < W; v++)
#pragma GCC unroll 16
    for (int n = 0; n < NB; n++) put(dh_ + v * apart + n * LANES, dh[v][n]);
}

// W blocks of `LANES` channels, from block ``block`` on: the chunk again, then its way back.
template <int NB, int W>
void blocks_grad(const Shape& s, const Work& k, int64_t block, int64_t first_state, int64_t steps,
                 const float* states, float* dh, float* trail, const float* dy, const Weights& w,
                 const Grads& grads, float* dB, float* dC) {
  int64_t channel = block * LANES, head = channel / s.width;
  int64_t at = (block * s.states + first_state) * LANES;
  for (int v = 0; v < W; v++) {
    float h[NB * LANES];
    std::memcpy(h, states + at + v * s.states * LANES, sizeof h);
    run<NB, false>(s, k, head, channel + v * LANES, first_state, steps, h,
                   trail + v * s.chunk * NB * LANES);
  }
  run_grad<NB, W>(s, k, head, channel, first_state, steps, states + at, trail, dh + at, dy,
                  w.d[head], grads, dB, dC);
}

// Gradients of the weights, added to dweights: conv (taps, channels), conv_bias, dt_bias, a_log, d,
// norm.
template <typename T, int NB>
void mamba2_grad(const T* projected, const Shape& s, const Weights& w, const T* kept_y,
                 const float* rstd, const float* states, const T* dout, T* dprojected,
                 float* dweights) {
  int64_t inner = s.inner(), ch = s.channels(), blocks = inner / LANES, whole = inner * s.states;
  int64_t chunks = (s.length + s.chunk - 1) / s.chunk, part = s.chunk * NB * LANES;
  int64_t after = (s.taps - 1) * ch;  // numbers of the steps after a chunk
  Scratch memory(Work::size(s) + 2 * s.chunk * ch + after + s.chunk * (inner + 3 * s.heads) +
                 whole + 4 * part);
  Work k(s, memory);
  float *slope = memory.take(s.chunk * ch), *dy = memory.take(s.chunk * inner);
  float* dt_slope = memory.take(s.chunk * s.heads);
  float *dh = memory.take(whole), *trail = memory.take(2 * part);
  float *dB = memory.take(part), *dC = memory.take(part);
  float *dconv = dweights, *dconv_bias = dconv + ch * s.taps, *ddt_bias = dconv_bias + ch;
  float *da_log = ddt_bias + s.heads, *dd = da_log + s.heads, *dnorm = dd + s.heads;
  Grads grads{memory.take(s.chunk * ch + after), memory.take(s.chunk * s.heads),
              memory.take(s.chunk * s.heads), dd};
  for (int64_t h = 0; h < s.heads; h++) k.rate[h] = -std::exp(w.a_log[h]);
  for (int64_t b = 0; b < s.batch; b++) {
    const T* p = projected + b * s.length * s.projected();
    T* dp = dprojected + b * s.length * s.projected();
    std::memset(dh, 0, whole * sizeof(float));
    std::memset(grads.du, 0, (s.chunk * ch + after) * sizeof(float));
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
      int64_t begin = chunk * s.chunk;
      int64_t end = begin + s.chunk < s.length ? begin + s.chunk : s.length, steps = end - begin;
      // The first steps of the chunk after this one are those after its last.
      std::memmove(grads.du + steps * ch, grads.du, after * sizeof(float));
      prepare(p, s, w, begin, end, k, slope, dt_slope, nullptr);

      // Norm and gate: out = norm * g * rstd with g = y * silu(z).
      for (int64_t t = begin; t < end; t++) {
        int64_t row = b * s.length + t;
        const T *z = p + t * s.projected(), *y = kept_y + row * inner, *o = dout + row * inner;
        T* dz = dp + t * s.projected();
        float* q = dy + (t - begin) * inner;  // the sigmoids, until their place is needed
        vec r = splat(rstd[row]), dot{};
        for (int64_t i = 0; i < inner; i += LANES) {
          vec zi = get(z + i), qi = sigmoid(zi), g = get(o + i) * get(y + i) * zi * qi;
          dot += g * get(w.norm + i);
          put(dnorm + i, get(dnorm + i) + g * r);
          put(q + i, qi);
        }
        vec c = sum(dot) / float(inner) * r * r * r;
        for (int64_t i = 0; i < inner; i += LANES) {
          vec zi = get(z + i), qi = get(q + i), yi = get(y + i);
          vec dg = get(o + i) * get(w.norm + i) * r - yi * zi * qi * c;
          put(q + i, dg * zi * qi);
          put(dz + i, dg * yi * qi * (1.0f + zi * (1.0f - qi)));
        }
      }

      const float* kept = states + (b * chunks + chunk) * whole;
      std::memset(grads.ddt, 0, steps * s.heads * sizeof(float));
      std::memset(grads.ddecay, 0, steps * s.heads * sizeof(float));
      for (int64_t n = 0; n < s.states; n += NB) {
        std::memset(dB, 0, part * sizeof(float));
        std::memset(dC, 0, part * sizeof(float));
        if (NB == 8 && s.width % (2 * LANES) == 0)  // with more states the registers don't suffice
          for (int64_t block = 0; block < blocks; block += 2)
            blocks_grad<8, 2>(s, k, block, n, steps, kept, dh, trail, dy, w, grads, dB, dC);
        else
          for (int64_t block = 0; block < blocks; block++)
            blocks_grad<NB, 1>(s, k, block, n, steps, kept, dh, trail, dy, w, grads, dB, dC);
        for (int64_t t = 0; t < steps; t++)
          for (int64_t i = 0; i < NB; i++) {
            int64_t at = (t * NB + i) * LANES;
            grads.du[t * ch + inner + n + i] = sum(get(dB + at));
            grads.du[t * ch + inner + s.states + n + i] = sum(get(dC + at));
          }
      }

      // Step sizes.
      for (int64_t t = 0; t < steps; t++) {
        T* draw = dp + (begin + t) * s.projected() + inner + ch;
        for (int64_t head = 0; head < s.heads; head++) {
          int64_t at = t * s.heads + head;
          float by_log = grads.ddecay[at] * k.decay[at];
          da_log[head] += by_log * k.dt[at] * k.rate[head];
          float g = (grads.ddt[at] + by_log * k.rate[head]) * dt_slope[at];
          ddt_bias[head] += g;
          draw[head] = store<T>(g);
        }
      }

      // SiLU and convolution.
      for (int64_t i = 0; i < steps * ch; i += LANES)
        put(grads.du + i, get(grads.du + i) * get(slope + i));
      const T* x = p + begin * s.projected() + inner;
      T* dx = dp + begin * s.projected() + inner;
      if (s.taps == 4) convolve_grad<T, 4>(x, grads.du, s, w, steps, dx, dconv, dconv_bias);
      else if (s.taps == 3) convolve_grad<T, 3>(x, grads.du, s, w, steps, dx, dconv, dconv_bias);
      else convolve_grad<T, 2>(x, grads.du, s, w, steps, dx, dconv, dconv_bias);
    }
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
ITERA_TYPES(MAMBA2_GRAD)
