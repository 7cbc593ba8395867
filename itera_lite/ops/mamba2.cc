// Mamba-2, forward: convolution, scan, skip, gate and norm of a sequence.
#include "mamba2.h"

using namespace itera;

namespace {

// states: per sequence [chunk][block of 16 channels][N][16], what each chunk began with.
// conv (B, channels, taps - 1) and ssm (B, inner, N): what came before, or null for nothing;
// ssm is left as the last step leaves it.
template <typename T, int NB>
void mamba2(const T* projected, const Shape& s, const Weights& w, T* out, T* kept_y, float* rstd,
            float* states, const float* conv, float* ssm) {
  int64_t inner = s.inner(), ch = s.channels(), blocks = inner / LANES;
  int64_t chunks = (s.length + s.chunk - 1) / s.chunk;
  Scratch memory(Work::size(s) + s.states * LANES);
  Work k(s, memory);
  float* h = memory.take(s.states * LANES);
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

}  // namespace

#define MAMBA2(T, S)                                                                              \
  extern "C" void mamba2_##S(const T* p, const Shape* s, const Weights* w, T* out, T* kept_y,     \
                             float* rstd, float* states, const float* conv, float* ssm) {         \
    if (s->states % 16 == 0) mamba2<T, 16>(p, *s, *w, out, kept_y, rstd, states, conv, ssm);      \
    else mamba2<T, 8>(p, *s, *w, out, kept_y, rstd, states, conv, ssm);                           \
  }
ITERA_BOTH_TYPES(MAMBA2)
