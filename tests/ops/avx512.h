// The instructions of AVX-512 that products of bfloat16 take, in plain C++, so that the tests of
// these products run on any processor. `-include` it before a source of itera_lite/ops. SIMDe does
// the same for other instructions; it lacks the conversions to bfloat16 and more of these.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#define __AVX512F__ 1
#define __AVX512BF16__ 1

#define APART [[gnu::noinline]] inline  // the sources compile in seconds so, without optimization
#pragma GCC push_options
#pragma GCC optimize("O2")

namespace avx512 {

template <typename T, int N> struct Lanes {
  T lane[N];
  T& operator[](int64_t i) { return lane[i]; }
};
using Floats = Lanes<float, 16>;
using Words = Lanes<uint32_t, 16>;
using Halves = Lanes<uint16_t, 32>;
using Low = Lanes<uint16_t, 16>;  // half as wide

template <typename To, typename From> To bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
// A vector V of N lanes, of which f(i) is the i-th.
template <typename V, typename L, typename F> V made(const F& f) {
  L to;
  for (int64_t i = 0; i < int64_t(sizeof to.lane / sizeof to.lane[0]); i++) to[i] = f(i);
  return bits<V>(to);
}
template <typename F> __m512 floats(const F& f) { return made<__m512, Floats>(f); }
template <typename F> __m512i words(const F& f) { return made<__m512i, Words>(f); }

inline float wide(uint16_t v) { return bits<float>(uint32_t(v) << 16); }
inline uint16_t narrow(float v) {  // to the nearest, ties to even
  uint32_t all = bits<uint32_t>(v);
  return (all + 0x7fff + ((all >> 16) & 1)) >> 16;
}

APART __m512 maskz_loadu_ps(__mmask16 m, const float* p) {
  return floats([=](int64_t i) { return m >> i & 1 ? p[i] : 0.0f; });
}
APART void mask_storeu_ps(float* p, __mmask16 m, __m512 v) {
  for (int64_t i = 0; i < 16; i++)
    if (m >> i & 1) p[i] = bits<Floats>(v)[i];
}
APART __m512 set1_ps(float v) {
  return floats([=](int64_t) { return v; });
}
APART __m512 setzero_ps() { return set1_ps(0); }
template <typename F> __m512 each(__m512 a, __m512 b, const F& f) {
  auto x = bits<Floats>(a), y = bits<Floats>(b);
  return floats([&](int64_t i) { return f(x[i], y[i]); });
}
APART __m512 min_ps(__m512 a, __m512 b) {
  return each(a, b, [](float x, float y) { return x < y ? x : y; });
}
APART __m512 roundscale_ps(__m512 v, int) {  // to the nearest integer
  return each(v, v, [](float x, float) { return std::nearbyint(x); });
}
APART __m512 scalef_ps(__m512 a, __m512 b) {
  return each(a, b, [](float x, float y) { return x * std::exp2(std::floor(y)); });
}
APART __m512 rcp14_ps(__m512 v) { return set1_ps(1) / v; }

APART __m512i loadu_si512(const void* p) {
  __m512i v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
APART __m512i set1_epi32(int v) {
  return words([=](int64_t) { return v; });
}
APART __m512i slli_epi32(__m512i v, int by) {
  auto x = bits<Words>(v);
  return words([&](int64_t i) { return x[i] << by; });
}
APART __m512i maskz_loadu_epi16(__mmask32 m, const void* p) {
  return made<__m512i, Halves>(
      [=](int64_t i) { return m >> i & 1 ? ((const uint16_t*)p)[i] : 0; });
}
APART __m256i low_maskz_loadu_epi16(__mmask16 m, const void* p) {
  return made<__m256i, Low>([=](int64_t i) { return m >> i & 1 ? ((const uint16_t*)p)[i] : 0; });
}
APART void low_mask_storeu_epi16(void* p, __mmask16 m, __m256i v) {
  for (int64_t i = 0; i < 16; i++)
    if (m >> i & 1) ((uint16_t*)p)[i] = bits<Low>(v)[i];
}
APART void low_storeu(void* p, __m256i v) { std::memcpy(p, &v, sizeof v); }
APART __m256i low_setzero() {
  return made<__m256i, Low>([](int64_t) { return 0; });
}
APART __m512i cvtepu16_epi32(__m256i v) {
  auto x = bits<Low>(v);
  return words([&](int64_t i) { return x[i]; });
}
APART __m512i castsi256_si512(__m256i v) {
  auto x = bits<Low>(v);
  return made<__m512i, Halves>([&](int64_t i) { return i < 16 ? x[i] : 0; });
}
APART __m512i inserti64x4(__m512i a, __m256i b, int high) {
  auto x = bits<Halves>(a);
  auto y = bits<Low>(b);
  return made<__m512i, Halves>([&](int64_t i) { return i / 16 == high ? y[i % 16] : x[i]; });
}
template <typename... V> __m512i set_epi16(V... v) {  // the last number first
  uint16_t given[] = {uint16_t(v)...};
  return made<__m512i, Halves>([&](int64_t i) { return given[31 - i]; });
}
APART __m512i permutexvar_epi16(__m512i order, __m512i v) {
  auto x = bits<Halves>(v), at = bits<Halves>(order);
  return made<__m512i, Halves>([&](int64_t i) { return x[at[i] & 31]; });
}

APART __m256bh cvtneps_pbh(__m512 v) {
  auto x = bits<Floats>(v);
  return made<__m256bh, Low>([&](int64_t i) { return narrow(x[i]); });
}
APART __m512bh cvtne2ps_pbh(__m512 high, __m512 low) {
  auto x = bits<Floats>(low), y = bits<Floats>(high);
  return made<__m512bh, Halves>([&](int64_t i) { return narrow(i < 16 ? x[i] : y[i - 16]); });
}
APART __m512 dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  auto s = bits<Floats>(sum);
  auto x = bits<Halves>(a), y = bits<Halves>(b);
  return floats([&](int64_t i) {
    float odd = std::fma(wide(x[2 * i + 1]), wide(y[2 * i + 1]), s[i]);
    return std::fma(wide(x[2 * i]), wide(y[2 * i]), odd);
  });
}

}  // namespace avx512
#pragma GCC pop_options

#undef _mm512_inserti64x4
#undef _mm512_roundscale_ps
#undef _mm512_scalef_ps
#undef _mm512_slli_epi32
#define _mm256_maskz_loadu_epi16 avx512::low_maskz_loadu_epi16
#define _mm256_mask_storeu_epi16 avx512::low_mask_storeu_epi16
#define _mm256_setzero_si256 avx512::low_setzero
#define _mm256_storeu_si256 avx512::low_storeu
#define _mm512_castsi256_si512 avx512::castsi256_si512
#define _mm512_cvtepu16_epi32 avx512::cvtepu16_epi32
#define _mm512_cvtne2ps_pbh avx512::cvtne2ps_pbh
#define _mm512_cvtneps_pbh avx512::cvtneps_pbh
#define _mm512_dpbf16_ps avx512::dpbf16_ps
#define _mm512_inserti64x4 avx512::inserti64x4
#define _mm512_loadu_si512 avx512::loadu_si512
#define _mm512_mask_storeu_ps avx512::mask_storeu_ps
#define _mm512_maskz_loadu_epi16 avx512::maskz_loadu_epi16
#define _mm512_maskz_loadu_ps avx512::maskz_loadu_ps
#define _mm512_min_ps avx512::min_ps
#define _mm512_permutexvar_epi16 avx512::permutexvar_epi16
#define _mm512_rcp14_ps avx512::rcp14_ps
#define _mm512_roundscale_ps avx512::roundscale_ps
#define _mm512_scalef_ps avx512::scalef_ps
#define _mm512_set1_epi32 avx512::set1_epi32
#define _mm512_set1_ps avx512::set1_ps
#define _mm512_set_epi16 avx512::set_epi16
#define _mm512_setzero_ps avx512::setzero_ps
#define _mm512_slli_epi32 avx512::slli_epi32
