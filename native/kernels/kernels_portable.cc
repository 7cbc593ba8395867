// Plain C++: runs anywhere, and is the oracle that the other instruction sets are held to.
#include "kernels/kernels.h"

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

inline F add(F a, const F &b) {
    for (int i = 0; i < 16; i++) a.v[i] = a.v[i] + b.v[i];
    return a;
}
inline F sub(F a, const F &b) {
    for (int i = 0; i < 16; i++) a.v[i] = a.v[i] - b.v[i];
    return a;
}
inline F div(F a, const F &b) {
    for (int i = 0; i < 16; i++) a.v[i] = a.v[i] / b.v[i];
    return a;
}
inline F max(F a, const F &b) {
    for (int i = 0; i < 16; i++) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
}
inline F min(F a, const F &b) {
    for (int i = 0; i < 16; i++) a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return a;
}
inline F round(F a) {
    for (int i = 0; i < 16; i++) a.v[i] = __builtin_rintf(a.v[i]);
    return a;
}
inline F scale2(F a, const F &k) {
    for (int i = 0; i < 16; i++)
        a.v[i] *= __builtin_bit_cast(float, (int32_t(k.v[i]) + 127) << 23);
    return a;
}
inline float sum(const F &a) {
    float total = 0;
    for (int i = 0; i < 16; i++) total += a.v[i];
    return total;
}
inline float top(const F &a) {
    float best = a.v[0];
    for (int i = 1; i < 16; i++) best = a.v[i] > best ? a.v[i] : best;
    return best;
}
inline I magnitude(const F &a) {
    I x;
    for (int i = 0; i < 16; i++) x.v[i] = __builtin_bit_cast(int32_t, a.v[i]) & INT32_MAX;
    return x;
}
inline I max_int(I a, const I &b) {
    for (int i = 0; i < 16; i++) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
}
inline I add_int(I a, const I &b) {
    for (int i = 0; i < 16; i++) a.v[i] = int32_t(uint32_t(a.v[i]) + uint32_t(b.v[i]));
    return a;
}
inline int32_t top_int(const I &a) {
    int32_t best = a.v[0];
    for (int i = 1; i < 16; i++) best = a.v[i] > best ? a.v[i] : best;
    return best;
}
inline int32_t sum_int(const I &a) {
    uint32_t total = 0;
    for (int i = 0; i < 16; i++) total += uint32_t(a.v[i]);
    return int32_t(total);
}
inline I to_int(const F &a) {
    I x;
    // Out of range as on x86: NaN, too, becomes the least integer.
    for (int i = 0; i < 16; i++) {
        const bool fits = __builtin_fabsf(a.v[i]) < 2147483648.0f;
        x.v[i] = fits ? int32_t(__builtin_rintf(a.v[i])) : INT32_MIN;
    }
    return x;
}
inline void store_bytes(int8_t *p, const I &a) {
    for (int i = 0; i < 16; i++) p[i] = int8_t(a.v[i]);
}

// The first lane where both are equal, or 16.
inline uint32_t lane_of(const F &a, const F &b) {
    uint32_t lane = 0;
    while (lane < 16 && a.v[lane] != b.v[lane]) lane++;
    return lane;
}

#include "kernels/kernels_impl.h"

}  // namespace

extern const Kernels kPortable;
const Kernels kPortable = {"portable", FLIP,    matmul, quantize, add_norm,    gated_silu,
                           axpy,       convolve, ssm_step, rotate, attend,      attend8,
                           store8,     log_sum_exp, read_bytes, maximum, find, route};

}  // namespace itera
