// What every fused operation needs: storage types, 16-wide vectors, exp and sigmoid.
//
// The operations are what lies between the matrix products of a training step on
// a CPU, a file each. Plain C++17 with GCC/Clang vector types, no other headers,
// so that they compile in seconds for the processor at hand. Called from Python
// through ctypes, for float32 (f32) and bfloat16 (b16). Each has its naive oracle
// in itera_lite/model, and a test holds them equal. Each runs in the thread that
// calls it, and several threads may call at once: the workers of a training.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace itera {

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

}  // namespace itera

// Defines an operation's exported functions for both storage types: F(type, suffix).
#define ITERA_BOTH_TYPES(F) \
  F(float, f32)             \
  F(itera::bf16, b16)
