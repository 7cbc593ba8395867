// The kernels, written once over vectors of 16 numbers. The file of an instruction set defines the
// vectors inside an unnamed namespace, then includes this there. Nothing may be shared between the
// sets: the linker would keep one copy, compiled for any of them.
//
// It needs F (16 floats), I (16 ints), Nibbles, Sum4 (16 sums of a block's products with Nibbles),
// TILE (vectors that are computed together, so that the registers hold them: in a product, rows
// times groups of weights; a power of two, at most 8),
// UNROLL (steps of a block's loop that are written out), FLIP, and
//   load, store, set, fma, mul, add, sub, div, max, min (the second where one is NaN), round,
//   lane_of, scale2 (a times 2^k), sum, top, half, bhalf (16 floats from 16 halves), to_float,
//   set_int, to_int, magnitude (bits without the sign), max_int, add_int, and_int, bits_of (a & b | c), as_int
//   and as_float (the same bits), top_int, sum_int, dot_values (weights of 0 to 127 as the last),
//   store_bytes, D (16 doubles) with to_double, add and sum (the upper half of the lanes is added to
//   the lower, then of those), power_of_two (of an integer plus 1.5 * 2^23; 0 for -127),
//   lanes_from (a bit for each lane that is at least the second), zero_below (0 in the others),
//   load_ids, pack_lanes (of two vectors, in order; may write 16),
//   dot(I, const uint8_t *weights, int32_t four), nibbles, dot_low and dot_high (to a Sum4),
//   begin (a Sum4 that has sums already) and total (its sums).
//
// Vectors may be read and written up to the end of the 16 that a length reaches into: all memory
// of weights, states and sessions has that room.

#include "kernels/impl_product.h"
#include "kernels/impl_layers.h"
#include "kernels/impl_attention.h"
#include "kernels/impl_sampling.h"

// ---- bandwidth ----

#if defined(__AVX512F__)
constexpr size_t kWordsBytes = 64;
#elif defined(__AVX2__)
constexpr size_t kWordsBytes = 32;
#else
constexpr size_t kWordsBytes = 16;
#endif
typedef uint64_t Words __attribute__((vector_size(kWordsBytes), aligned(16), may_alias));

// Four sums, so that loads are what limits the speed.
uint64_t read_bytes(const std::byte *data, size_t n) {
    const Words *w = reinterpret_cast<const Words *>(data);
    Words a = {}, b = {}, c = {}, d = {};
    for (size_t i = 0; i + 4 <= n / kWordsBytes; i += 4) {
        a ^= w[i];
        b ^= w[i + 1];
        c ^= w[i + 2];
        d ^= w[i + 3];
    }
    a ^= b ^ c ^ d;
    uint64_t all = 0;
    for (size_t l = 0; l < kWordsBytes / 8; l++) all ^= a[l];
    return all;
}

constexpr Kernels kernels_of(const char *name) {
    return {name,   FLIP,    matmul, quantize, add_norm,    gated_silu, axpy,    convolve, ssm_step,
            rotate, attend, attend8, store8,   log_sum_exp, read_bytes, maximum, find,     route,
            exponentials,   mass_from,         select,      maxima,  draw};
}
