// AVX-512 with VNNI: one vector of 64 bytes is 16 rows by 4 columns, multiplied in one instruction.
#include "kernels/kernels.h"

#if defined(__AVX512VNNI__)
#include <immintrin.h>

namespace itera {
namespace {

using F = __m512;
using I = __m512i;
struct Nibbles {  // the high ones stay where they are, 16 times as great: a shift less
    __m512i low, high;
};
struct Sum4 {
    __m512i low, high;
};
constexpr uint8_t FLIP = 0x80;  // the instruction takes unsigned times signed
constexpr int TILE = 8, UNROLL = 8;

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
// The second factor is 0 to 127.
inline I dot_values(I acc, const int8_t *v, int32_t p) {
    return _mm512_dpbusd_epi32(acc, _mm512_set1_epi32(p), _mm512_loadu_si512(v));
}
inline Nibbles nibbles(const uint8_t *w) {
    const __m512i mask = _mm512_set1_epi8(0x0f);
    const __m512i both = _mm512_loadu_si512(w);
    return {_mm512_and_si512(both, mask), _mm512_andnot_si512(mask, both)};
}
inline Sum4 begin(I sums) { return {sums, _mm512_setzero_si512()}; }
inline Sum4 dot_low(Sum4 acc, Nibbles w, int32_t q) {
    return {_mm512_dpbusd_epi32(acc.low, w.low, _mm512_set1_epi32(q)), acc.high};
}
inline Sum4 dot_high(Sum4 acc, Nibbles w, int32_t q) {
    return {acc.low, _mm512_dpbusd_epi32(acc.high, w.high, _mm512_set1_epi32(q))};
}
inline I total(Sum4 acc) { return _mm512_add_epi32(acc.low, _mm512_srai_epi32(acc.high, 4)); }

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
inline I and_int(I a, I b) { return _mm512_and_si512(a, b); }
inline I bits_of(I a, I mask, I others) {
    return _mm512_ternarylogic_epi32(a, mask, others, 0xEA);
}
inline I as_int(F a) { return _mm512_castps_si512(a); }
inline F as_float(I a) { return _mm512_castsi512_ps(a); }
inline I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
inline int32_t top_int(I a) { return _mm512_reduce_max_epi32(a); }
inline int32_t sum_int(I a) { return _mm512_reduce_add_epi32(a); }
inline I to_int(F a) { return _mm512_cvtps_epi32(a); }
inline void store_bytes(int8_t *p, I a) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(a)); }

inline void store_bytes(int8_t *p, I a, I b, I c, I d) {
    const I packed = _mm512_packs_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
    const I order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_storeu_si512(p, _mm512_permutexvar_epi32(order, packed));
}

// The first lane where both are equal, or 16.
inline uint32_t lane_of(F a, F b) {
    const uint32_t equal = _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
    return uint32_t(__builtin_ctz(equal | 0x10000));
}

struct D {
    __m512d a, b;
};
inline D to_double(F x) {
    return {_mm512_cvtps_pd(_mm512_castps512_ps256(x)),
            _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))};
}
inline D add(D x, D y) { return {_mm512_add_pd(x.a, y.a), _mm512_add_pd(x.b, y.b)}; }
inline double sum(D x) {
    const __m512d eight = _mm512_add_pd(x.a, x.b);
    const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256(eight),
                                       _mm512_extractf64x4_pd(eight, 1));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
inline F power_of_two(F shifted) {
    return _mm512_castsi512_ps(_mm512_add_epi32(
        _mm512_slli_epi32(_mm512_castps_si512(shifted), 23), _mm512_set1_epi32(0x3F800000)));
}
inline uint32_t lanes_from(F x, F least) { return _mm512_cmp_ps_mask(x, least, _CMP_GE_OQ); }
inline F zero_below(F x, F least) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, least, _CMP_GE_OQ), x);
}
inline I load_ids(const uint32_t *p) { return _mm512_loadu_si512(p); }
inline void pack_lanes(uint32_t lanes, F x, I ids, float *to, uint32_t *ids_to) {
    store(to, _mm512_maskz_compress_ps(__mmask16(lanes), x));
    _mm512_storeu_si512(ids_to, _mm512_maskz_compress_epi32(__mmask16(lanes), ids));
}

#include "kernels/impl.h"

}  // namespace

const Kernels kAvx512 = kernels_of("avx512");

}  // namespace itera
#endif
