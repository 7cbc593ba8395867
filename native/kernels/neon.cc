// NEON with the dot-product instructions: four vectors of 16 bytes are 16 rows by 4 columns.
#include "kernels/kernels.h"

#if defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

namespace itera {
namespace {

struct F {
    float32x4_t v[4];
};
struct I {
    int32x4_t v[4];
};
struct Nibbles {
    int8x16_t low[4], high[4];
};
using Sum4 = I;
constexpr uint8_t FLIP = 0;
constexpr int TILE = 4, UNROLL = 1;

// The vectors whose quarters are quarter(0) to quarter(3).
template <class V, class Quarter> inline V each(Quarter quarter) {
    return {{quarter(0), quarter(1), quarter(2), quarter(3)}};
}

inline F load(const float *p) {
    return each<F>([&](int i) { return vld1q_f32(p + 4 * i); });
}
inline void store(float *p, F x) {
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.v[i]);
}
inline F set(float x) {
    return each<F>([&](int) { return vdupq_n_f32(x); });
}
inline F fma(F a, F b, F c) {
    return each<F>([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
inline F mul(F a, F b) {
    return each<F>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
inline F half(const uint16_t *p) {
    return each<F>([&](int i) {
        return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
    });
}
inline F bhalf(const uint16_t *p) {
    return each<F>([&](int i) {
        return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
    });
}
inline F to_float(I x) {
    return each<F>([&](int i) { return vcvtq_f32_s32(x.v[i]); });
}
inline I set_int(int32_t x) {
    return each<I>([&](int) { return vdupq_n_s32(x); });
}

// acc + the products of four neighbours; weights(i) are those of rows 4 i to 4 i + 3.
template <class Weights> inline I dot_of(I acc, int32_t q4, Weights weights) {
    const int8x16_t q = vreinterpretq_s8_s32(vdupq_n_s32(q4));
    return each<I>([&](int i) { return vdotq_s32(acc.v[i], weights(i), q); });
}
inline I dot(I acc, const uint8_t *w, int32_t q4) {
    return dot_of(acc, q4, [&](int i) {
        return vld1q_s8(reinterpret_cast<const int8_t *>(w) + 16 * i);
    });
}
inline I dot_values(I acc, const int8_t *v, int32_t p) {
    return dot_of(acc, p, [&](int i) { return vld1q_s8(v + 16 * i); });
}
inline Nibbles nibbles(const uint8_t *w) {
    Nibbles out;
    for (int i = 0; i < 4; i++) {
        const uint8x16_t both = vld1q_u8(w + 16 * i);
        out.low[i] = vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(0x0f)));
        out.high[i] = vreinterpretq_s8_u8(vshrq_n_u8(both, 4));
    }
    return out;
}
inline Sum4 begin(I sums) { return sums; }
inline I total(const Sum4 &acc) { return acc; }
inline Sum4 dot_low(Sum4 acc, const Nibbles &w, int32_t q4) {
    return dot_of(acc, q4, [&](int i) { return w.low[i]; });
}
inline Sum4 dot_high(Sum4 acc, const Nibbles &w, int32_t q4) {
    return dot_of(acc, q4, [&](int i) { return w.high[i]; });
}

inline F add(F a, F b) {
    return each<F>([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
inline F sub(F a, F b) {
    return each<F>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
inline F div(F a, F b) {
    return each<F>([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
inline F max(F a, F b) {
    return each<F>([&](int i) { return vmaxnmq_f32(a.v[i], b.v[i]); });
}
inline F min(F a, F b) {
    return each<F>([&](int i) { return vminnmq_f32(a.v[i], b.v[i]); });
}
inline F round(F a) {
    return each<F>([&](int i) { return vrndnq_f32(a.v[i]); });
}
inline F scale2(F a, F k) {
    return each<F>([&](int i) {
        const int32x4_t power = vaddq_s32(vcvtnq_s32_f32(k.v[i]), vdupq_n_s32(127));
        return vmulq_f32(a.v[i], vreinterpretq_f32_s32(vshlq_n_s32(power, 23)));
    });
}
inline float sum(F a) {
    return vaddvq_f32(vaddq_f32(vaddq_f32(a.v[0], a.v[1]), vaddq_f32(a.v[2], a.v[3])));
}
inline float top(F a) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3])));
}
inline I magnitude(F a) {
    return each<I>([&](int i) {
        return vandq_s32(vreinterpretq_s32_f32(a.v[i]), vdupq_n_s32(INT32_MAX));
    });
}
inline I max_int(I a, I b) {
    return each<I>([&](int i) { return vmaxq_s32(a.v[i], b.v[i]); });
}
inline I and_int(I a, I b) {
    return each<I>([&](int i) { return vandq_s32(a.v[i], b.v[i]); });
}
inline I bits_of(I a, I mask, I others) {
    return each<I>([&](int i) { return vorrq_s32(vandq_s32(a.v[i], mask.v[i]), others.v[i]); });
}
inline I as_int(F a) {
    return each<I>([&](int i) { return vreinterpretq_s32_f32(a.v[i]); });
}
inline F as_float(I a) {
    return each<F>([&](int i) { return vreinterpretq_f32_s32(a.v[i]); });
}
inline I add_int(I a, I b) {
    return each<I>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); });
}
inline int32_t top_int(I a) {
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.v[0], a.v[1]), vmaxq_s32(a.v[2], a.v[3])));
}
inline int32_t sum_int(I a) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3])));
}
inline I to_int(F a) {
    return each<I>([&](int i) { return vcvtnq_s32_f32(a.v[i]); });
}
inline void store_bytes(int8_t *p, I a) {
    const int16x8_t low = vcombine_s16(vqmovn_s32(a.v[0]), vqmovn_s32(a.v[1]));
    const int16x8_t high = vcombine_s16(vqmovn_s32(a.v[2]), vqmovn_s32(a.v[3]));
    vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}

inline void store_bytes(int8_t *p, I a, I b, I c, I d) {
    store_bytes(p, a);
    store_bytes(p + 16, b);
    store_bytes(p + 32, c);
    store_bytes(p + 48, d);
}

// The first lane where both are equal, or 16.
inline uint32_t lane_of(F a, F b) {
    alignas(16) uint32_t equal[16];
    for (int i = 0; i < 4; i++) vst1q_u32(equal + 4 * i, vceqq_f32(a.v[i], b.v[i]));
    uint32_t lane = 0;
    while (lane < 16 && !equal[lane]) lane++;
    return lane;
}

struct D {
    float64x2_t v[8];
};
inline D to_double(F x) {
    D out;
    for (int i = 0; i < 4; i++) {
        out.v[2 * i] = vcvt_f64_f32(vget_low_f32(x.v[i]));
        out.v[2 * i + 1] = vcvt_high_f64_f32(x.v[i]);
    }
    return out;
}
inline D add(D x, D y) {
    for (int i = 0; i < 8; i++) x.v[i] = vaddq_f64(x.v[i], y.v[i]);
    return x;
}
inline double sum(D x) {
    for (int half = 4; half; half /= 2)
        for (int i = 0; i < half; i++) x.v[i] = vaddq_f64(x.v[i], x.v[i + half]);
    return vgetq_lane_f64(x.v[0], 0) + vgetq_lane_f64(x.v[0], 1);
}
inline F power_of_two(F shifted) {
    return each<F>([&](int i) {
        const int32x4_t power = vshlq_n_s32(vreinterpretq_s32_f32(shifted.v[i]), 23);
        return vreinterpretq_f32_s32(vaddq_s32(power, vdupq_n_s32(0x3F800000)));
    });
}
inline uint32_t lanes_from(F x, F least) {
    const uint32x4_t bits = {1, 2, 4, 8};
    uint32_t lanes = 0;
    for (int i = 0; i < 4; i++)
        lanes |= vaddvq_u32(vandq_u32(vcgeq_f32(x.v[i], least.v[i]), bits)) << 4 * i;
    return lanes;
}
inline F zero_below(F x, F least) {
    return each<F>([&](int i) {
        const uint32x4_t from = vcgeq_f32(x.v[i], least.v[i]);
        return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(x.v[i]), from));
    });
}
inline I load_ids(const uint32_t *p) {
    return each<I>([&](int i) { return vreinterpretq_s32_u32(vld1q_u32(p + 4 * i)); });
}
inline void pack_lanes(uint32_t lanes, F x, I ids, float *to, uint32_t *ids_to) {
    float values[16];
    int32_t numbers[16];
    store(values, x);
    for (int i = 0; i < 4; i++) vst1q_s32(numbers + 4 * i, ids.v[i]);
    for (; lanes; lanes &= lanes - 1) {
        const int lane = __builtin_ctz(lanes);
        *to++ = values[lane];
        *ids_to++ = uint32_t(numbers[lane]);
    }
}

#include "kernels/impl.h"

}  // namespace

const Kernels kNeon = kernels_of("neon");

}  // namespace itera
#endif
