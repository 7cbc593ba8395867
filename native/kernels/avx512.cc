// AVX-512 with VNNI: one vector of 64 bytes is 16 rows by 4 columns, multiplied in one instruction.
#include "kernels/kernels.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>

namespace itera {
namespace {

using F = __m512;
using I = __m512i;
struct Nibbles {
    __m512i low, high;
};
constexpr uint8_t FLIP = 0x80;  // the instruction takes unsigned times signed
constexpr int NT = 8;

inline F load(const float *p) { return _mm512_loadu_ps(p); }
inline void store(float *p, F v) { _mm512_storeu_ps(p, v); }
inline F set(float v) { return _mm512_set1_ps(v); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F half(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
inline F bhalf(const uint16_t *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline F to_float(I v) { return _mm512_cvtepi32_ps(v); }
inline I set_int(int32_t v) { return _mm512_set1_epi32(v); }
inline I dot(I acc, const uint8_t *w, int32_t q) {
    return _mm512_dpbusd_epi32(acc, _mm512_loadu_si512(w), _mm512_set1_epi32(q));
}
inline Nibbles nibbles(const uint8_t *w) {
    const __m512i mask = _mm512_set1_epi8(0x0f), both = _mm512_loadu_si512(w);
    return {_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16(both, 4), mask)};
}
inline I dot_low(I acc, Nibbles w, int32_t q) {
    return _mm512_dpbusd_epi32(acc, w.low, _mm512_set1_epi32(q));
}
inline I dot_high(I acc, Nibbles w, int32_t q) {
    return _mm512_dpbusd_epi32(acc, w.high, _mm512_set1_epi32(q));
}

inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F round(F a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline F scale2(F a, F k) { return _mm512_scalef_ps(a, k); }
inline float sum(F a) { return _mm512_reduce_add_ps(a); }
inline float top(F a) { return _mm512_reduce_max_ps(a); }
inline I magnitude(F a) {
    return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MAX));
}
inline I max_int(I a, I b) { return _mm512_max_epi32(a, b); }
inline I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
inline int32_t top_int(I a) { return _mm512_reduce_max_epi32(a); }
inline int32_t sum_int(I a) { return _mm512_reduce_add_epi32(a); }
inline I to_int(F a) { return _mm512_cvtps_epi32(a); }
inline void store_bytes(int8_t *p, I a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a)); }

// The first lane where both are equal, or 16.
inline uint32_t lane_of(F a, F b) {
    const uint32_t equal = _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
    return uint32_t(__builtin_ctz(equal | 0x10000));
}

#include "kernels/impl.h"

}  // namespace

const Kernels kAvx512 = kernels_of("avx512");

}  // namespace itera
#endif
