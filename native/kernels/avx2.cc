// AVX2 with FMA and F16C: two vectors of 32 bytes are 16 rows by 4 columns.
#include "kernels/kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>

namespace itera {
namespace {

struct F {
    __m256 a, b;
};
struct I {
    __m256i a, b;
};
struct Nibbles {
    I low, high;
};
struct Sum4 {  // pairs of 16 bits, which hold a block: 16 products of at most 15 * 127
    I begun, pairs;
};
constexpr uint8_t FLIP = 0;
constexpr int TILE = 4, UNROLL = 8;

inline F load(const float *p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float *p, F v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}
inline F set(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
inline F fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)};
}
inline F mul(F a, F b) { return {_mm256_mul_ps(a.a, b.a), _mm256_mul_ps(a.b, b.b)}; }
inline F half(const uint16_t *p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)),
            _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8)))};
}
inline __m256 bhalf8(const uint16_t *p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
inline F bhalf(const uint16_t *p) { return {bhalf8(p), bhalf8(p + 8)}; }
inline F to_float(I v) { return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
inline I set_int(int32_t v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }

// Keeps the compiler from adding in another order, for which 16 registers are too few.
inline __m256i in_order(__m256i v) {
    asm("" : "+x"(v));
    return v;
}
// acc + the sums of two neighbours of 16 bits.
inline __m256i widened(__m256i acc, __m256i pairs) {
    return in_order(_mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
}
// Signed times signed by an instruction that multiplies unsigned by signed: |q| times w with the
// sign of q. Neither is ever -128, so that pairs fit 16 bits.
inline __m256i dot8(__m256i acc, __m256i w, __m256i q) {
    return widened(acc, _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(w, q)));
}
inline I dot(I acc, const uint8_t *w, int32_t q4) {
    const __m256i q = _mm256_set1_epi32(q4);
    return {dot8(acc.a, _mm256_loadu_si256((const __m256i *)w), q),
            dot8(acc.b, _mm256_loadu_si256((const __m256i *)(w + 32)), q)};
}
inline __m256i dot4(__m256i acc, __m256i w, __m256i q) {
    return widened(acc, _mm256_maddubs_epi16(w, q));
}
inline Nibbles nibbles(const uint8_t *w) {
    const __m256i mask = _mm256_set1_epi8(0x0f);
    const __m256i a = _mm256_loadu_si256((const __m256i *)w);
    const __m256i b = _mm256_loadu_si256((const __m256i *)(w + 32));
    return {{_mm256_and_si256(a, mask), _mm256_and_si256(b, mask)},
            {_mm256_and_si256(_mm256_srli_epi16(a, 4), mask),
             _mm256_and_si256(_mm256_srli_epi16(b, 4), mask)}};
}
// The second factor is 0 to 127.
inline I dot_values(I acc, const int8_t *v, int32_t p4) {
    const __m256i p = _mm256_set1_epi32(p4);
    return {dot4(acc.a, p, _mm256_loadu_si256((const __m256i *)v)),
            dot4(acc.b, p, _mm256_loadu_si256((const __m256i *)(v + 32)))};
}
inline Sum4 begin(I sums) { return {sums, set_int(0)}; }
inline Sum4 dot_pairs(Sum4 acc, I w, int32_t q4) {
    const __m256i q = _mm256_set1_epi32(q4);
    acc.pairs.a = in_order(_mm256_add_epi16(acc.pairs.a, _mm256_maddubs_epi16(w.a, q)));
    acc.pairs.b = in_order(_mm256_add_epi16(acc.pairs.b, _mm256_maddubs_epi16(w.b, q)));
    return acc;
}
inline Sum4 dot_low(Sum4 acc, Nibbles w, int32_t q4) { return dot_pairs(acc, w.low, q4); }
inline Sum4 dot_high(Sum4 acc, Nibbles w, int32_t q4) { return dot_pairs(acc, w.high, q4); }
inline I total(Sum4 acc) {
    return {widened(acc.begun.a, acc.pairs.a), widened(acc.begun.b, acc.pairs.b)};
}

inline F add(F a, F b) { return {_mm256_add_ps(a.a, b.a), _mm256_add_ps(a.b, b.b)}; }
inline F sub(F a, F b) { return {_mm256_sub_ps(a.a, b.a), _mm256_sub_ps(a.b, b.b)}; }
inline F div(F a, F b) { return {_mm256_div_ps(a.a, b.a), _mm256_div_ps(a.b, b.b)}; }
inline F max(F a, F b) { return {_mm256_max_ps(a.a, b.a), _mm256_max_ps(a.b, b.b)}; }
inline F min(F a, F b) { return {_mm256_min_ps(a.a, b.a), _mm256_min_ps(a.b, b.b)}; }
inline __m256 round8(__m256 a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline F round(F a) { return {round8(a.a), round8(a.b)}; }
inline __m256 scale8(__m256 a, __m256 k) {
    const __m256i power = _mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(127));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(power, 23)));
}
inline F scale2(F a, F k) { return {scale8(a.a, k.a), scale8(a.b, k.b)}; }
inline float sum(F a) {
    const __m256 eight = _mm256_add_ps(a.a, a.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float top(F a) {
    const __m256 eight = _mm256_max_ps(a.a, a.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
inline __m256i magnitude8(__m256 a) {
    return _mm256_and_si256(_mm256_castps_si256(a), _mm256_set1_epi32(INT32_MAX));
}
inline I magnitude(F a) { return {magnitude8(a.a), magnitude8(a.b)}; }
inline I max_int(I a, I b) { return {_mm256_max_epi32(a.a, b.a), _mm256_max_epi32(a.b, b.b)}; }
inline I and_int(I a, I b) { return {_mm256_and_si256(a.a, b.a), _mm256_and_si256(a.b, b.b)}; }
inline I bits_of(I a, I mask, I others) {
    const I kept = and_int(a, mask);
    return {_mm256_or_si256(kept.a, others.a), _mm256_or_si256(kept.b, others.b)};
}
inline I as_int(F a) { return {_mm256_castps_si256(a.a), _mm256_castps_si256(a.b)}; }
inline F as_float(I a) { return {_mm256_castsi256_ps(a.a), _mm256_castsi256_ps(a.b)}; }
inline I add_int(I a, I b) { return {_mm256_add_epi32(a.a, b.a), _mm256_add_epi32(a.b, b.b)}; }
inline int32_t top_int(I a) {
    const __m256i eight = _mm256_max_epi32(a.a, a.b);
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
inline int32_t sum_int(I a) {
    const __m256i eight = _mm256_add_epi32(a.a, a.b);
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
inline I to_int(F a) { return {_mm256_cvtps_epi32(a.a), _mm256_cvtps_epi32(a.b)}; }
inline __m128i shorts(__m256i a) {
    return _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
}
inline void store_bytes(int8_t *p, I a) {
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(shorts(a.a), shorts(a.b)));
}

inline void store_bytes(int8_t *p, I a, I b, I c, I d) {
    store_bytes(p, a);
    store_bytes(p + 16, b);
    store_bytes(p + 32, c);
    store_bytes(p + 48, d);
}

// The first lane where both are equal, or 16.
inline uint32_t lane_of(F a, F b) {
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(a.a, b.a, _CMP_EQ_OQ));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(a.b, b.b, _CMP_EQ_OQ));
    return uint32_t(__builtin_ctz(uint32_t(low | high << 8) | 0x10000));
}

struct D {
    __m256d v[4];
};
inline D to_double(F x) {
    return {{_mm256_cvtps_pd(_mm256_castps256_ps128(x.a)),
             _mm256_cvtps_pd(_mm256_extractf128_ps(x.a, 1)),
             _mm256_cvtps_pd(_mm256_castps256_ps128(x.b)),
             _mm256_cvtps_pd(_mm256_extractf128_ps(x.b, 1))}};
}
inline D add(D x, D y) {
    for (int i = 0; i < 4; i++) x.v[i] = _mm256_add_pd(x.v[i], y.v[i]);
    return x;
}
inline double sum(D x) {
    const __m256d four = _mm256_add_pd(_mm256_add_pd(x.v[0], x.v[2]),
                                       _mm256_add_pd(x.v[1], x.v[3]));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
inline __m256 power_of_two8(__m256 shifted) {
    return _mm256_castsi256_ps(_mm256_add_epi32(
        _mm256_slli_epi32(_mm256_castps_si256(shifted), 23), _mm256_set1_epi32(0x3F800000)));
}
inline F power_of_two(F shifted) { return {power_of_two8(shifted.a), power_of_two8(shifted.b)}; }
inline uint32_t lanes_from(F x, F least) {
    const int low = _mm256_movemask_ps(_mm256_cmp_ps(x.a, least.a, _CMP_GE_OQ));
    const int high = _mm256_movemask_ps(_mm256_cmp_ps(x.b, least.b, _CMP_GE_OQ));
    return uint32_t(low | high << 8);
}
inline F zero_below(F x, F least) {
    return {_mm256_and_ps(x.a, _mm256_cmp_ps(x.a, least.a, _CMP_GE_OQ)),
            _mm256_and_ps(x.b, _mm256_cmp_ps(x.b, least.b, _CMP_GE_OQ))};
}
inline I load_ids(const uint32_t *p) {
    return {_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 8))};
}
// By the bits of eight lanes: the numbers of those that are set, in bytes from the lowest on.
struct LaneOrders {
    uint64_t of[256] = {};
    constexpr LaneOrders() {
        for (unsigned lanes = 0; lanes < 256; lanes++)
            for (unsigned lane = 0, place = 0; lane < 8; lane++)
                if (lanes >> lane & 1) of[lanes] |= uint64_t(lane) << 8 * place++;
    }
};
constexpr LaneOrders kLaneOrders;

inline void pack_lanes(uint32_t lanes, F x, I ids, float *to, uint32_t *ids_to) {
    const auto pack8 = [&](uint32_t eight, __m256 values, __m256i numbers) {
        const __m256i order =
            _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(kLaneOrders.of[eight])));
        _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(values, order));
        _mm256_storeu_si256((__m256i *)ids_to, _mm256_permutevar8x32_epi32(numbers, order));
    };
    pack8(lanes & 255, x.a, ids.a);
    const int low = __builtin_popcount(lanes & 255);
    to += low;
    ids_to += low;
    pack8(lanes >> 8, x.b, ids.b);
}

#include "kernels/impl.h"

}  // namespace

const Kernels kAvx2 = kernels_of("avx2");

}  // namespace itera
#endif
