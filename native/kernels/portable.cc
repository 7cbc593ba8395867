// Plain C++: runs anywhere, and is what the other instruction sets are checked against.
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
using Sum4 = I;
constexpr uint8_t FLIP = 0;
constexpr int TILE = 2, UNROLL = 1;

// The vector whose lanes are lane(0) to lane(15).
template <class V, class Lane> inline V each(Lane lane) {
    V x;
    for (int i = 0; i < 16; i++) x.v[i] = lane(i);
    return x;
}

inline F load(const float *p) {
    return each<F>([&](int i) { return p[i]; });
}
inline void store(float *p, const F &x) {
    for (int i = 0; i < 16; i++) p[i] = x.v[i];
}
inline F set(float value) {
    return each<F>([&](int) { return value; });
}
inline F fma(const F &a, const F &b, const F &c) {
    return each<F>([&](int i) { return c.v[i] + a.v[i] * b.v[i]; });
}
inline F mul(const F &a, const F &b) {
    return each<F>([&](int i) { return a.v[i] * b.v[i]; });
}
inline F half(const uint16_t *p) {
    return each<F>([&](int i) { return half_to_float(p[i]); });
}
inline F bhalf(const uint16_t *p) {
    return each<F>([&](int i) { return __builtin_bit_cast(float, uint32_t(p[i]) << 16); });
}
inline F to_float(const I &a) {
    return each<F>([&](int i) { return float(a.v[i]); });
}
inline I set_int(int32_t value) {
    return each<I>([&](int) { return value; });
}

// acc + the products of four neighbours; weight(j) is weight j of all 16 rows times 4.
template <class Weight> inline I dot_of(I acc, int32_t q4, Weight weight) {
    int8_t q[4];
    __builtin_memcpy(q, &q4, 4);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) acc.v[i] += weight(4 * i + j) * q[j];
    return acc;
}
inline I dot(const I &acc, const uint8_t *w, int32_t q4) {
    return dot_of(acc, q4, [&](int k) { return int8_t(w[k]); });
}
inline I dot_values(const I &acc, const int8_t *v, int32_t p) {
    return dot_of(acc, p, [&](int k) { return v[k]; });
}
inline Nibbles nibbles(const uint8_t *w) { return {w}; }
inline Sum4 begin(const I &sums) { return sums; }
inline I total(const Sum4 &acc) { return acc; }
inline Sum4 dot_low(const Sum4 &acc, Nibbles n, int32_t q4) {
    return dot_of(acc, q4, [&](int k) { return n.w[k] & 15; });
}
inline Sum4 dot_high(const Sum4 &acc, Nibbles n, int32_t q4) {
    return dot_of(acc, q4, [&](int k) { return n.w[k] >> 4; });
}

inline F add(const F &a, const F &b) {
    return each<F>([&](int i) { return a.v[i] + b.v[i]; });
}
inline F sub(const F &a, const F &b) {
    return each<F>([&](int i) { return a.v[i] - b.v[i]; });
}
inline F div(const F &a, const F &b) {
    return each<F>([&](int i) { return a.v[i] / b.v[i]; });
}
inline F max(const F &a, const F &b) {
    return each<F>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F min(const F &a, const F &b) {
    return each<F>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F round(const F &a) {
    return each<F>([&](int i) { return __builtin_rintf(a.v[i]); });
}
inline F scale2(const F &a, const F &k) {
    return each<F>([&](int i) {
        return a.v[i] * __builtin_bit_cast(float, (int32_t(k.v[i]) + 127) << 23);
    });
}
inline float sum(const F &a) {
    float total = 0;
    for (const float x : a.v) total += x;
    return total;
}
inline float top(const F &a) {
    float best = a.v[0];
    for (const float x : a.v) best = x > best ? x : best;
    return best;
}
inline I magnitude(const F &a) {
    return each<I>([&](int i) { return __builtin_bit_cast(int32_t, a.v[i]) & INT32_MAX; });
}
inline I max_int(const I &a, const I &b) {
    return each<I>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline I and_int(const I &a, const I &b) {
    return each<I>([&](int i) { return a.v[i] & b.v[i]; });
}
inline I bits_of(const I &a, const I &mask, const I &others) {
    return each<I>([&](int i) { return (a.v[i] & mask.v[i]) | others.v[i]; });
}
inline I as_int(const F &a) {
    return each<I>([&](int i) { return __builtin_bit_cast(int32_t, a.v[i]); });
}
inline F as_float(const I &a) {
    return each<F>([&](int i) { return __builtin_bit_cast(float, a.v[i]); });
}
inline I add_int(const I &a, const I &b) {
    return each<I>([&](int i) { return int32_t(uint32_t(a.v[i]) + uint32_t(b.v[i])); });
}
inline int32_t top_int(const I &a) {
    int32_t best = a.v[0];
    for (const int32_t x : a.v) best = x > best ? x : best;
    return best;
}
inline int32_t sum_int(const I &a) {
    uint32_t total = 0;
    for (const int32_t x : a.v) total += uint32_t(x);
    return int32_t(total);
}
inline I to_int(const F &a) {
    // Out of range as on x86: NaN, too, becomes the least integer.
    return each<I>([&](int i) {
        const bool fits = __builtin_fabsf(a.v[i]) < 2147483648.0f;
        return fits ? int32_t(__builtin_rintf(a.v[i])) : INT32_MIN;
    });
}
inline void store_bytes(int8_t *p, const I &a) {
    for (int i = 0; i < 16; i++) p[i] = int8_t(a.v[i]);
}

inline void store_bytes(int8_t *p, const I &a, const I &b, const I &c, const I &d) {
    store_bytes(p, a);
    store_bytes(p + 16, b);
    store_bytes(p + 32, c);
    store_bytes(p + 48, d);
}

// The first lane where both are equal, or 16.
inline uint32_t lane_of(const F &a, const F &b) {
    uint32_t lane = 0;
    while (lane < 16 && a.v[lane] != b.v[lane]) lane++;
    return lane;
}

struct D {
    double v[16];
};
inline D to_double(const F &a) {
    return each<D>([&](int i) { return double(a.v[i]); });
}
inline D add(const D &a, const D &b) {
    return each<D>([&](int i) { return a.v[i] + b.v[i]; });
}
inline double sum(D a) {
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
    return a.v[0];
}
inline F power_of_two(const F &shifted) {
    return each<F>([&](int i) {
        const auto bits = __builtin_bit_cast(uint32_t, shifted.v[i]);
        return __builtin_bit_cast(float, (bits << 23) + 0x3F800000u);
    });
}
inline uint32_t lanes_from(const F &x, const F &least) {
    uint32_t lanes = 0;
    for (int i = 0; i < 16; i++) lanes |= uint32_t(x.v[i] >= least.v[i]) << i;
    return lanes;
}
inline F zero_below(const F &x, const F &least) {
    return each<F>([&](int i) { return x.v[i] >= least.v[i] ? x.v[i] : 0.0f; });
}
inline I load_ids(const uint32_t *p) {
    return each<I>([&](int i) { return int32_t(p[i]); });
}
inline void pack_lanes(uint32_t lanes, const F &x, const I &ids, float *to, uint32_t *ids_to) {
    for (int i = 0; i < 16; i++, lanes >>= 1) {  // a branch would be mispredicted
        *to = x.v[i];
        *ids_to = uint32_t(ids.v[i]);
        to += lanes & 1;
        ids_to += lanes & 1;
    }
}

#include "kernels/impl.h"

}  // namespace

const Kernels kPortable = kernels_of("portable");

}  // namespace itera
