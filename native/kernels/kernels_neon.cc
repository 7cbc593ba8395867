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
constexpr uint8_t FLIP = 0;
constexpr int NT = 2;

inline F load(const float *p) {
    return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}};
}
inline void store(float *p, F x) {
    for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.v[i]);
}
inline F set(float x) {
    const float32x4_t s = vdupq_n_f32(x);
    return {{s, s, s, s}};
}
inline F fma(F a, F b, F c) {
    for (int i = 0; i < 4; i++) c.v[i] = vfmaq_f32(c.v[i], a.v[i], b.v[i]);
    return c;
}
inline F mul(F a, F b) {
    for (int i = 0; i < 4; i++) a.v[i] = vmulq_f32(a.v[i], b.v[i]);
    return a;
}
inline F half(const uint16_t *p) {
    F out;
    for (int i = 0; i < 4; i++)
        out.v[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
    return out;
}
inline F bhalf(const uint16_t *p) {
    F out;
    for (int i = 0; i < 4; i++)
        out.v[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
    return out;
}
inline F to_float(I x) {
    F out;
    for (int i = 0; i < 4; i++) out.v[i] = vcvtq_f32_s32(x.v[i]);
    return out;
}
inline I set_int(int32_t x) {
    const int32x4_t s = vdupq_n_s32(x);
    return {{s, s, s, s}};
}
inline I dot(I acc, const uint8_t *w, int32_t q4) {
    const int8x16_t q = vreinterpretq_s8_s32(vdupq_n_s32(q4));
    for (int i = 0; i < 4; i++)
        acc.v[i] = vdotq_s32(acc.v[i], vld1q_s8(reinterpret_cast<const int8_t *>(w) + 16 * i), q);
    return acc;
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
inline I dot_low(I acc, const Nibbles &w, int32_t q4) {
    const int8x16_t q = vreinterpretq_s8_s32(vdupq_n_s32(q4));
    for (int i = 0; i < 4; i++) acc.v[i] = vdotq_s32(acc.v[i], w.low[i], q);
    return acc;
}
inline I dot_high(I acc, const Nibbles &w, int32_t q4) {
    const int8x16_t q = vreinterpretq_s8_s32(vdupq_n_s32(q4));
    for (int i = 0; i < 4; i++) acc.v[i] = vdotq_s32(acc.v[i], w.high[i], q);
    return acc;
}

inline F add(F a, F b) {
    for (int i = 0; i < 4; i++) a.v[i] = vaddq_f32(a.v[i], b.v[i]);
    return a;
}
inline F sub(F a, F b) {
    for (int i = 0; i < 4; i++) a.v[i] = vsubq_f32(a.v[i], b.v[i]);
    return a;
}
inline F div(F a, F b) {
    for (int i = 0; i < 4; i++) a.v[i] = vdivq_f32(a.v[i], b.v[i]);
    return a;
}
inline F max(F a, F b) {
    for (int i = 0; i < 4; i++) a.v[i] = vmaxnmq_f32(a.v[i], b.v[i]);
    return a;
}
inline F min(F a, F b) {
    for (int i = 0; i < 4; i++) a.v[i] = vminnmq_f32(a.v[i], b.v[i]);
    return a;
}
inline F round(F a) {
    for (int i = 0; i < 4; i++) a.v[i] = vrndnq_f32(a.v[i]);
    return a;
}
inline F scale2(F a, F k) {
    for (int i = 0; i < 4; i++) {
        const int32x4_t power = vaddq_s32(vcvtnq_s32_f32(k.v[i]), vdupq_n_s32(127));
        a.v[i] = vmulq_f32(a.v[i], vreinterpretq_f32_s32(vshlq_n_s32(power, 23)));
    }
    return a;
}
inline float sum(F a) {
    return vaddvq_f32(vaddq_f32(vaddq_f32(a.v[0], a.v[1]), vaddq_f32(a.v[2], a.v[3])));
}
inline float top(F a) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[1]), vmaxq_f32(a.v[2], a.v[3])));
}
inline I magnitude(F a) {
    I out;
    for (int i = 0; i < 4; i++)
        out.v[i] = vandq_s32(vreinterpretq_s32_f32(a.v[i]), vdupq_n_s32(INT32_MAX));
    return out;
}
inline I max_int(I a, I b) {
    for (int i = 0; i < 4; i++) a.v[i] = vmaxq_s32(a.v[i], b.v[i]);
    return a;
}
inline I add_int(I a, I b) {
    for (int i = 0; i < 4; i++) a.v[i] = vaddq_s32(a.v[i], b.v[i]);
    return a;
}
inline int32_t top_int(I a) {
    return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.v[0], a.v[1]), vmaxq_s32(a.v[2], a.v[3])));
}
inline int32_t sum_int(I a) {
    return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3])));
}
inline I to_int(F a) {
    I out;
    for (int i = 0; i < 4; i++) out.v[i] = vcvtnq_s32_f32(a.v[i]);
    return out;
}
inline void store_bytes(int8_t *p, I a) {
    const int16x8_t low = vcombine_s16(vqmovn_s32(a.v[0]), vqmovn_s32(a.v[1]));
    const int16x8_t high = vcombine_s16(vqmovn_s32(a.v[2]), vqmovn_s32(a.v[3]));
    vst1q_s8(p, vcombine_s8(vqmovn_s16(low), vqmovn_s16(high)));
}

// The first lane where both are equal, or 16.
inline uint32_t lane_of(F a, F b) {
    alignas(16) uint32_t equal[16];
    for (int i = 0; i < 4; i++) vst1q_u32(equal + 4 * i, vceqq_f32(a.v[i], b.v[i]));
    uint32_t lane = 0;
    while (lane < 16 && !equal[lane]) lane++;
    return lane;
}

#include "kernels/kernels_impl.h"

}  // namespace

extern const Kernels kNeon;
const Kernels kNeon = {"neon",   FLIP,     matmul, quantize, add_norm, gated_silu, axpy,
                       convolve, ssm_step, rotate, attend,   attend8,  store8,     log_sum_exp,
                       read_bytes, maximum, find, route};

}  // namespace itera
#endif
