// What every fused operation needs: storage types, vectors, exp and sigmoid.
//
// The operations are what lies between the matrix products of a training step on
// a CPU, a file each; gemm.h has the products. Plain C++17 with GCC/Clang vector
// types, and intrinsics where a processor has AVX-512, so that they compile in
// seconds for the processor at hand. Called from Python through ctypes, for float32
// (f32), and for bfloat16 (b16) where the processor multiplies it. Each has its
// naive oracle in itera_lite/model, and a test holds them equal. Each runs in the
// thread that calls it, and several threads may call at once: the workers of a
// training.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace itera {

using bf16 = uint16_t;
// Numbers of a vector: as many as a register holds. Wider ones would live in memory.
#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif
typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef uint32_t uvec __attribute__((vector_size(LANES * 4)));

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
// log(1 + exp(x)), with log(1 + y) = 2 artanh(y / (2 + y)) as a series, for y up to 1.
inline float softplus(float x) {
  float y = fast_exp(x > 0 ? -x : x), s = y / (2.0f + y), q = s * s, p = 1.0f / 15;
  p = p * q + 1.0f / 13;
  p = p * q + 1.0f / 11;
  p = p * q + 1.0f / 9;
  p = p * q + 1.0f / 7;
  p = p * q + 1.0f / 5;
  p = p * q + 1.0f / 3;
  p = p * q + 1.0f;
  return 2.0f * s * p + (x > 0 ? x : 0.0f);
}

// A vector of numbers of two others: lane l is lane P::from(l) of a, or, counted on, of b.
template <typename P, int... I>
inline vec picked(vec a, vec b, std::integer_sequence<int, I...>) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, P::from(I)...);
#else
  return __builtin_shuffle(a, b, ivec{P::from(I)...});
#endif
}
using Lanes = std::make_integer_sequence<int, LANES>;
template <typename P> inline vec picked(vec a, vec b) { return picked<P>(a, b, Lanes{}); }

template <int... I> constexpr ivec counted(std::integer_sequence<int, I...>) { return ivec{I...}; }
constexpr ivec LANE = counted(Lanes{});  // 0, 1, 2, ...
template <int BY> struct Swapped {
  static constexpr int from(int lane) { return (lane ^ BY) % LANES; }
};
template <int BY> inline vec swapped(vec v) { return picked<Swapped<BY>>(v, v); }
inline float sum(vec v) {
  if (LANES > 8) v += swapped<8>(v);
  if (LANES > 4) v += swapped<4>(v);
  v += swapped<2>(v);
  return v[0] + v[1];
}
inline vec splat(float v) { return vec{} + v; }
inline vec larger(vec a, vec b) { return a > b ? a : b; }
inline float largest(vec v) {
  if (LANES > 8) v = larger(v, swapped<8>(v));
  if (LANES > 4) v = larger(v, swapped<4>(v));
  v = larger(v, swapped<2>(v));
  return v[0] > v[1] ? v[0] : v[1];
}
// The vectors as they lie in memory. GCC copies 32 bytes by memcpy in halves, through the stack.
typedef float vec_at __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
inline vec get(const float* p) { return *(const vec_at*)p; }
inline void put(float* p, vec v) { *(vec_at*)p = v; }

// The first ``n`` numbers of a vector, at most all, the others 0: the end of a row.
inline ivec first(int64_t n) { return LANE < int32_t(n); }  // -1 in these lanes
#if defined(__AVX512F__)
inline __mmask16 mask(int64_t n) { return (1u << n) - 1; }
inline vec get(const float* p, int64_t n) { return (vec)_mm512_maskz_loadu_ps(mask(n), p); }
inline void put(float* p, vec v, int64_t n) { _mm512_mask_storeu_ps(p, mask(n), (__m512)v); }
#elif defined(__AVX2__)
inline vec get(const float* p, int64_t n) { return (vec)_mm256_maskload_ps(p, (__m256i)first(n)); }
inline void put(float* p, vec v, int64_t n) {
  _mm256_maskstore_ps(p, (__m256i)first(n), (__m256)v);
}
#else
inline vec get(const float* p, int64_t n) {
  float row[LANES] = {};
  std::memcpy(row, p, n * sizeof(float));
  return get(row);
}
inline void put(float* p, vec v, int64_t n) {
  float row[LANES];
  put(row, v);
  std::memcpy(p, row, n * sizeof(float));
}
#endif
#ifdef __AVX512BF16__
inline vec widened(__m256i v) { return (vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16); }
inline vec get(const bf16* p) { return widened(_mm256_loadu_si256((const __m256i*)p)); }
inline void put(bf16* p, vec v) {
  _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
inline vec get(const bf16* p, int64_t n) { return widened(_mm256_maskz_loadu_epi16(mask(n), p)); }
inline void put(bf16* p, vec v, int64_t n) {
  _mm256_mask_storeu_epi16(p, mask(n), (__m256i)_mm512_cvtneps_pbh((__m512)v));
}
#endif

// 2^x with a relative error below 2e-7; in float32's range, so not for an infinite x.
inline vec exp2(vec x) {
#ifdef __AVX512F__
  vec n = (vec)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  x = x < -126.0f ? splat(-126.0f) : x;
  x = x > 127.0f ? splat(127.0f) : x;
  ivec whole = __builtin_convertvector(x + 0.5f, ivec);
  whole += __builtin_convertvector(whole, vec) > x + 0.5f;  // -1 where it was rounded up
  vec n = __builtin_convertvector(whole, vec);
#endif
  vec r = x - n;  // the polynomial of least relative error for |r| <= 1/2
  vec p = r * 1.3276471e-3f + 9.6755409e-3f;
  p = p * r + 5.5507131e-2f;
  p = p * r + 2.4022120e-1f;
  p = p * r + 6.9314694e-1f;
  p = p * r + 1.0f;
#ifdef __AVX512F__
  return (vec)_mm512_scalef_ps((__m512)p, (__m512)n);  // 0 or infinite beyond the range
#else
  return (vec)((ivec)p + (whole << 23));
#endif
}
constexpr float LOG2_E = 1.44269504088896341f;
inline vec fast_exp(vec x) {
  x = x < -87.0f ? splat(-87.0f) : x;
  return exp2((x > 88.0f ? splat(88.0f) : x) * LOG2_E);
}
inline vec sigmoid(vec x) {
#ifdef __AVX512F__  // a division takes as long as all the rest
  vec t = x * -LOG2_E;
  vec d = 1.0f + exp2((vec)_mm512_min_ps((__m512)t, _mm512_set1_ps(126.0f)));
  vec r = (vec)_mm512_rcp14_ps((__m512)d);
  return r * (2.0f - d * r);
#else
  return 1.0f / (1.0f + exp2(x * -LOG2_E));
#endif
}

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

// Calls f(i, at) for each vector of a row of d columns, which begins at column i; ``at`` loads and
// stores it, and puts another number into lanes that are behind the row's end.
struct Whole {
  template <typename T> vec load(const T* p) const { return get(p); }
  template <typename T> void store(T* p, vec v) const { put(p, v); }
  vec inside(vec v, float) const { return v; }
};
struct Part {
  int64_t n;
  template <typename T> vec load(const T* p) const { return get(p, n); }
  template <typename T> void store(T* p, vec v) const { put(p, v, n); }
  vec inside(vec v, float outside) const { return first(n) ? v : splat(outside); }
};
template <typename F> inline void columns(int64_t d, const F& f) {
  int64_t i = 0;
  for (; i + LANES <= d; i += LANES) f(i, Whole{});
  if (i < d) f(i, Part{d - i});
}

}  // namespace itera

// Defines an operation's exported functions for each storage type, F(type, suffix): bfloat16 only
// where the processor multiplies it.
#ifdef __AVX512BF16__
#define ITERA_TYPES(F) \
  F(float, f32)        \
  F(itera::bf16, b16)
#else
#define ITERA_TYPES(F) F(float, f32)
#endif
