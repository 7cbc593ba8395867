// WebAssembly's SIMD128: four vectors of 16 bytes are 16 rows by 4 columns. There are no fused
// multiply-adds, and sums are taken in the order of the portable kernels: the results have their
// bits.
#include "kernels/kernels.h"

#if defined(__wasm_simd128__)
#include <wasm_simd128.h>

namespace itera {
namespace {

struct F {
    v128_t v[4];
};
struct I {
    v128_t v[4];
};
struct Nibbles {
    v128_t v[4];
};
using Sum4 = I;
constexpr uint8_t FLIP = 0x80;
constexpr int TILE = 2, UNROLL = 1;  // eight vectors: a browser has 16 registers for them on x86

// The vectors whose quarters are quarter(0) to quarter(3).
template <class V, class Quarter> inline V each(Quarter quarter) {
    return {{quarter(0), quarter(1), quarter(2), quarter(3)}};
}

inline F load(const float *p) {
    return each<F>([&](int i) { return wasm_v128_load(p + 4 * i); });
}
inline void store(float *p, F x) {
    for (int i = 0; i < 4; i++) wasm_v128_store(p + 4 * i, x.v[i]);
}
inline F set(float x) {
    return each<F>([&](int) { return wasm_f32x4_splat(x); });
}
inline F fma(F a, F b, F c) {
    return each<F>([&](int i) {
        return wasm_f32x4_add(c.v[i], wasm_f32x4_mul(a.v[i], b.v[i]));
    });
}
inline F mul(F a, F b) {
    return each<F>([&](int i) { return wasm_f32x4_mul(a.v[i], b.v[i]); });
}
// A half's exponent and mantissa in a float's places are its value times 2^-112. No infinity and no
// NaN comes here: a file with such a weight or scale is refused.
inline F half(const uint16_t *p) {
    return each<F>([&](int i) {
        const v128_t wide = wasm_i32x4_shl(wasm_i32x4_load16x4(p + 4 * i), 13);
        const v128_t bits = wasm_v128_and(wide, wasm_u32x4_const_splat(0x8fffe000));
        return wasm_f32x4_mul(bits, wasm_f32x4_const_splat(0x1p112f));
    });
}
inline F bhalf(const uint16_t *p) {
    return each<F>([&](int i) { return wasm_i32x4_shl(wasm_u32x4_load16x4(p + 4 * i), 16); });
}
inline F to_float(I x) {
    return each<F>([&](int i) { return wasm_f32x4_convert_i32x4(x.v[i]); });
}
inline I set_int(int32_t x) {
    return each<I>([&](int) { return wasm_i32x4_splat(x); });
}

// The only product that adds neighbours is of 16-bit numbers. Of four bytes it multiplies the even
// two, then the odd two, so that a row's sum is in one lane at once.
struct Halves {
    v128_t even, odd;
};
inline Halves signed_halves(v128_t bytes) {
    return {wasm_i16x8_shr(wasm_i16x8_shl(bytes, 8), 8), wasm_i16x8_shr(bytes, 8)};
}
inline Halves unsigned_halves(v128_t bytes) {
    return {wasm_v128_and(bytes, wasm_u16x8_const_splat(0xff)), wasm_u16x8_shr(bytes, 8)};
}
// acc + the products of four neighbours; weights(i) are those of rows 4 i to 4 i + 3.
template <class Weights> inline I dot_of(I acc, int32_t q4, Weights weights) {
    const Halves q = signed_halves(wasm_i32x4_splat(q4));
    return each<I>([&](int i) {
        const Halves w = weights(i);
        return wasm_i32x4_add(wasm_i32x4_add(acc.v[i], wasm_i32x4_dot_i16x8(w.even, q.even)),
                              wasm_i32x4_dot_i16x8(w.odd, q.odd));
    });
}
inline I dot(I acc, const uint8_t *w, int32_t q4) {
    return dot_of(acc, q4, [&](int i) { return unsigned_halves(wasm_v128_load(w + 16 * i)); });
}
inline I dot_values(I acc, const int8_t *v, int32_t p) {
    return dot_of(acc, p, [&](int i) { return signed_halves(wasm_v128_load(v + 16 * i)); });
}
inline Nibbles nibbles(const uint8_t *w) {
    return each<Nibbles>([&](int i) { return wasm_v128_load(w + 16 * i); });
}
inline Sum4 begin(I sums) { return sums; }
inline I total(const Sum4 &acc) { return acc; }
inline Sum4 dot_low(Sum4 acc, Nibbles w, int32_t q4) {
    return dot_of(acc, q4, [&](int i) {
        return unsigned_halves(wasm_v128_and(w.v[i], wasm_u8x16_const_splat(0x0f)));
    });
}
inline Sum4 dot_high(Sum4 acc, Nibbles w, int32_t q4) {
    return dot_of(acc, q4, [&](int i) {
        const v128_t high = wasm_v128_and(w.v[i], wasm_u8x16_const_splat(0xf0));
        return unsigned_halves(wasm_u16x8_shr(high, 4));
    });
}

inline F add(F a, F b) {
    return each<F>([&](int i) { return wasm_f32x4_add(a.v[i], b.v[i]); });
}
inline F sub(F a, F b) {
    return each<F>([&](int i) { return wasm_f32x4_sub(a.v[i], b.v[i]); });
}
inline F div(F a, F b) {
    return each<F>([&](int i) { return wasm_f32x4_div(a.v[i], b.v[i]); });
}
// pmax(b, a) is b < a ? a : b.
inline F max(F a, F b) {
    return each<F>([&](int i) { return wasm_f32x4_pmax(b.v[i], a.v[i]); });
}
inline F min(F a, F b) {
    return each<F>([&](int i) { return wasm_f32x4_pmin(b.v[i], a.v[i]); });
}
inline F round(F a) {
    return each<F>([&](int i) { return wasm_f32x4_nearest(a.v[i]); });
}
inline F power_of_two(F shifted) {
    return each<F>([&](int i) {
        return wasm_i32x4_add(wasm_i32x4_shl(shifted.v[i], 23), wasm_i32x4_const_splat(0x3F800000));
    });
}
inline F scale2(F a, F k) { return mul(a, power_of_two(add(k, set(12582912.0f)))); }
inline float sum(F a) {
    float total = 0;
    for (const v128_t four : a.v) {
        total += wasm_f32x4_extract_lane(four, 0);
        total += wasm_f32x4_extract_lane(four, 1);
        total += wasm_f32x4_extract_lane(four, 2);
        total += wasm_f32x4_extract_lane(four, 3);
    }
    return total;
}
inline v128_t upper_half(v128_t x) { return wasm_i64x2_shuffle(x, x, 1, 0); }
// A vector whose first lane is `combine` of all 16 lanes.
template <class Combine> inline v128_t reduced(const v128_t (&v)[4], Combine combine) {
    v128_t all = combine(combine(v[0], v[1]), combine(v[2], v[3]));
    all = combine(all, upper_half(all));
    return combine(all, wasm_i32x4_shuffle(all, all, 1, 0, 3, 2));
}
inline float top(F a) { return wasm_f32x4_extract_lane(reduced(a.v, wasm_f32x4_pmax), 0); }
inline I magnitude(F a) {
    return each<I>([&](int i) {
        return wasm_v128_and(a.v[i], wasm_i32x4_const_splat(INT32_MAX));
    });
}
inline I max_int(I a, I b) {
    return each<I>([&](int i) { return wasm_i32x4_max(a.v[i], b.v[i]); });
}
inline I and_int(I a, I b) {
    return each<I>([&](int i) { return wasm_v128_and(a.v[i], b.v[i]); });
}
inline I bits_of(I a, I mask, I others) {
    return each<I>([&](int i) {
        return wasm_v128_or(wasm_v128_and(a.v[i], mask.v[i]), others.v[i]);
    });
}
inline I as_int(F a) { return each<I>([&](int i) { return a.v[i]; }); }
inline F as_float(I a) { return each<F>([&](int i) { return a.v[i]; }); }
inline I add_int(I a, I b) {
    return each<I>([&](int i) { return wasm_i32x4_add(a.v[i], b.v[i]); });
}
inline int32_t top_int(I a) { return wasm_i32x4_extract_lane(reduced(a.v, wasm_i32x4_max), 0); }
inline int32_t sum_int(I a) { return wasm_i32x4_extract_lane(reduced(a.v, wasm_i32x4_add), 0); }
inline I to_int(F a) {
    return each<I>([&](int i) {
        return wasm_i32x4_trunc_sat_f32x4(wasm_f32x4_nearest(a.v[i]));
    });
}
inline void store_bytes(int8_t *p, I a) {
    wasm_v128_store(p, wasm_i8x16_narrow_i16x8(wasm_i16x8_narrow_i32x4(a.v[0], a.v[1]),
                                               wasm_i16x8_narrow_i32x4(a.v[2], a.v[3])));
}

inline void store_bytes(int8_t *p, I a, I b, I c, I d) {
    store_bytes(p, a);
    store_bytes(p + 16, b);
    store_bytes(p + 32, c);
    store_bytes(p + 48, d);
}

// A bit for each of the 16 lanes whose bits of lanes(i) are set.
template <class Lanes> inline uint32_t mask_of(Lanes lanes) {
    uint32_t mask = 0;
    for (int i = 0; i < 4; i++) mask |= wasm_i32x4_bitmask(lanes(i)) << 4 * i;
    return mask;
}
// The first lane where both are equal, or 16.
inline uint32_t lane_of(F a, F b) {
    const uint32_t equal = mask_of([&](int i) { return wasm_f32x4_eq(a.v[i], b.v[i]); });
    return uint32_t(__builtin_ctz(equal | 0x10000));
}

struct D {
    v128_t v[8];
};
inline D to_double(F x) {
    D out;
    for (int i = 0; i < 4; i++) {
        out.v[2 * i] = wasm_f64x2_promote_low_f32x4(x.v[i]);
        out.v[2 * i + 1] = wasm_f64x2_promote_low_f32x4(upper_half(x.v[i]));
    }
    return out;
}
inline D add(D x, D y) {
    for (int i = 0; i < 8; i++) x.v[i] = wasm_f64x2_add(x.v[i], y.v[i]);
    return x;
}
inline double sum(D x) {
    for (int half = 4; half; half /= 2)
        for (int i = 0; i < half; i++) x.v[i] = wasm_f64x2_add(x.v[i], x.v[i + half]);
    return wasm_f64x2_extract_lane(x.v[0], 0) + wasm_f64x2_extract_lane(x.v[0], 1);
}
inline uint32_t lanes_from(F x, F least) {
    return mask_of([&](int i) { return wasm_f32x4_ge(x.v[i], least.v[i]); });
}
inline F zero_below(F x, F least) {
    return each<F>([&](int i) {
        return wasm_v128_and(x.v[i], wasm_f32x4_ge(x.v[i], least.v[i]));
    });
}
inline I load_ids(const uint32_t *p) {
    return each<I>([&](int i) { return wasm_v128_load(p + 4 * i); });
}
inline void pack_lanes(uint32_t lanes, F x, I ids, float *to, uint32_t *ids_to) {
    float values[16];
    uint32_t numbers[16];
    store(values, x);
    for (int i = 0; i < 4; i++) wasm_v128_store(numbers + 4 * i, ids.v[i]);
    for (; lanes; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        *to++ = values[lane];
        *ids_to++ = numbers[lane];
    }
}

#include "kernels/impl.h"

}  // namespace

const Kernels kWasm = kernels_of("wasm-simd128");

}  // namespace itera
#endif
