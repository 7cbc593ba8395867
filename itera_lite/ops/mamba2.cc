// Mamba-2, forward: convolution, scan, skip, gate and norm of a sequence.
#include "mamba2.h"

using namespace itera;

namespace {

// states: per sequence [chunk][block of LANES channels][N][LANES], what each chunk began with.
// conv (B, channels, taps - 1) and ssm (B, inner, N): what came before, or null for nothing;
// ssm is left as the last step leaves it.
template <typename T, int NB>
void mamba2(const T* projected, const Shape& s, const Weights& w, T* out, T* kept_y, float* rstd,
            float* states, const float* conv, float* ssm) {
  int64_t inner = s.inner(), ch = s.channels(), blocks = inner / LANES, whole = inner * s.states;
  Scratch memory(Work::size(s) + s.chunk * inner + whole);
  Work k(s, memory);
  float *y = memory.take(s.chunk * inner), *state = memory.take(whole);
  for (int64_t h = 0; h < s.heads; h++) k.rate[h] = -std::exp(w.a_log[h]);
  for (int64_t b = 0; b < s.batch; b++) {
    const T* p = projected + b * s.length * s.projected();
    float* own = ssm ? ssm + b * whole : nullptr;  // (channel, state)
    for (int64_t i = 0; i < inner; i++)
      for (int64_t n = 0; n < s.states; n++)
        state[(i / LANES * s.states + n) * LANES + i % LANES] = own ? own[i * s.states + n] : 0;
    for (int64_t begin = 0; begin < s.length; begin += s.chunk) {
      int64_t end = begin + s.chunk < s.length ? begin + s.chunk : s.length;
      if (states) std::memcpy(std::exchange(states, states + whole), state, whole * sizeof(float));
      prepare(p, s, w, begin, end, k, nullptr, nullptr,
              conv ? conv + b * ch * (s.taps - 1) : nullptr);
      for (int64_t t = 0; t < end - begin; t++)
        for (int64_t i = 0; i < inner; i += LANES)
          put(y + t * inner + i, w.d[i / s.width] * get(k.u + t * ch + i));
      for (int64_t block = 0; block < blocks; block++)
        for (int64_t n = 0; n < s.states; n += NB)
          run<NB, true>(s, k, block * LANES / s.width, block * LANES, n, end - begin,
                        state + (block * s.states + n) * LANES, y);
      for (int64_t t = begin; t < end; t++) {
        const T* z = p + t * s.projected();
        float* row = y + (t - begin) * inner;
        int64_t at = b * s.length + t;
        vec squares{};
        for (int64_t i = 0; i < inner; i += LANES) {
          vec v = get(row + i), g = get(z + i);
          if (kept_y) put(kept_y + at * inner + i, v);
          v *= g * sigmoid(g);
          squares += v * v;
          put(row + i, v);
        }
        float r = 1.0f / std::sqrt(sum(squares) / float(inner) + s.eps);
        if (rstd) rstd[at] = r;
        for (int64_t i = 0; i < inner; i += LANES)
          put(out + at * inner + i, r * get(row + i) * get(w.norm + i));
      }
    }
    for (int64_t i = 0; own && i < inner; i++)
      for (int64_t n = 0; n < s.states; n++)
        own[i * s.states + n] = state[(i / LANES * s.states + n) * LANES + i % LANES];
  }
}

}  // namespace

#define MAMBA2(T, S)                                                                              \
  extern "C" void mamba2_##S(const T* p, const Shape* s, const Weights* w, T* out, T* kept_y,     \
                             float* rstd, float* states, const float* conv, float* ssm) {         \
    if (s->states % 16 == 0) mamba2<T, 16>(p, *s, *w, out, kept_y, rstd, states, conv, ssm);      \
    else mamba2<T, 8>(p, *s, *w, out, kept_y, rstd, states, conv, ssm);                           \
  }
ITERA_TYPES(MAMBA2)
