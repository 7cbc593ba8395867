// Plain C++: runs anywhere, and is the oracle that the other instruction sets are held to.
#include "kernels.h"

namespace itera {
namespace {

struct F {
    float v[16];
};
struct I {
    int32_t v[16];
};
struct Nibbles {
    const uint8_t *w;
};
constexpr uint8_t FLIP = 0;
constexpr int NT = 2;

inline F load(const float *p) {
    F x;
    for (int i = 0; i < 16; i++) x.v[i] = p[i];
    return x;
}
inline void store(float *p, const F &x) {
    for (int i = 0; i < 16; i++) p[i] = x.v[i];
}
inline F set(float value) {
    F x;
    for (int i = 0; i < 16; i++) x.v[i] = value;
    return x;
}
inline F fma(const F &a, const F &b, F c) {
    for (int i = 0; i < 16; i++) c.v[i] += a.v[i] * b.v[i];
    return c;
}
inline F mul(F a, const F &b) {
    for (int i = 0; i < 16; i++) a.v[i] *= b.v[i];
    return a;
}
inline F half(const uint16_t *p) {
    F x;
    for (int i = 0; i < 16; i++) x.v[i] = half_to_float(p[i]);
    return x;
}
inline F bhalf(const uint16_t *p) {
    F x;
    for (int i = 0; i < 16; i++) x.v[i] = __builtin_bit_cast(float, uint32_t(p[i]) << 16);
    return x;
}
inline F to_float(const I &a) {
    F x;
    for (int i = 0; i < 16; i++) x.v[i] = float(a.v[i]);
    return x;
}
inline I set_int(int32_t value) {
    I x;
    for (int i = 0; i < 16; i++) x.v[i] = value;
    return x;
}
inline I dot(I acc, const uint8_t *w, int32_t q4) {
    int8_t q[4];
    __builtin_memcpy(q, &q4, 4);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) acc.v[i] += int8_t(w[4 * i + j]) * q[j];
    return acc;
}
inline Nibbles nibbles(const uint8_t *w) { return {w}; }
inline I dot_low(I acc, Nibbles n, int32_t q4) {
    int8_t q[4];
    __builtin_memcpy(q, &q4, 4);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) acc.v[i] += (n.w[4 * i + j] & 15) * q[j];
    return acc;
}
inline I dot_high(I acc, Nibbles n, int32_t q4) {
    int8_t q[4];
    __builtin_memcpy(q, &q4, 4);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) acc.v[i] += (n.w[4 * i + j] >> 4) * q[j];
    return acc;
}

#include "kernels_impl.h"

}  // namespace

extern const Kernels kPortable;
const Kernels kPortable = {"portable", FLIP,     matmul, quantize, add_norm, gated_silu, axpy,
                           convolve,   ssm_step, rotate, attend,   attend8,  store8,     log_sum_exp};

}  // namespace itera
