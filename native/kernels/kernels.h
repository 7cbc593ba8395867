// The operations of a model as a table of functions, one table for each instruction set.
//
// Every table computes the same numbers: integers exactly, floats up to the order of a sum. The
// portable table is the oracle of the others. A product of one row and one of many rows give the
// same bits, so that reading a prompt at once and a token at a time agree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "gguf/tensor.h"

namespace itera {

inline constexpr uint32_t kLanes = 16;  // rows of a matrix that are stored together
inline constexpr uint32_t kBlock = 32;  // weights that share a scale in Q8_0 and Q4_0
inline constexpr uint32_t kCacheStep = 128;  // keys and values have room for a multiple of this

// A matrix (rows, columns), repacked in groups of 16 rows so that one vector holds 16 rows.
//
//   F32        [group][column][16]
//   F16, BF16  [group][column][16], 2 bytes each
//   Q8_0       [group]{ [block][8][16 rows][4 columns] bytes, [block][16] scales F16 }
//   Q4_0       [group]{ [block][4][16 rows][4 columns] bytes, [block][16] scales F16 }; the low
//              half of a byte is column 4j+i of the block, the high half column 16+4j+i
//
// Rows that fill up the last group are zero.
struct Matrix {
    TensorType type = TensorType::F32;
    uint32_t rows = 0, columns = 0;
    size_t group_bytes = 0;
    const std::byte *data = nullptr;  // aligned to 64

    uint32_t groups() const { return (rows + kLanes - 1) / kLanes; }
    uint32_t padded_rows() const { return groups() * kLanes; }
    bool quantized() const { return is_quantized(type); }
    // Some groups of rows as a matrix of their own (an expert of a stack).
    Matrix slice(uint32_t group, uint32_t n_rows) const {
        Matrix part = *this;
        part.rows = n_rows;
        part.data = data + group * group_bytes;
        return part;
    }
};

// Input rows of a product: floats, and where a quantised matrix is to be multiplied, the same as
// 8-bit integers with a scale for every 32 columns.
struct Rows {
    const float *x;         // (n, stride)
    size_t stride;          // floats from row to row; a multiple of 32
    const int8_t *q;        // (n, stride)
    const float *scales;    // (n, stride / 32)
    const int32_t *sums;    // (n, stride / 32): sum of the integers of a block
    const uint32_t *index;  // row i is index[i]; null: i
    uint32_t n;

    // Some of the rows, where none are left out.
    Rows slice(uint32_t first, uint32_t count) const {
        const size_t at = first * stride, block = at / kBlock;
        return {x + at, stride, q + at, scales + block, sums + block, nullptr, count};
    }
};

// Keys and values of one head in 8 bits. Positions in groups of 16, as the rows of a matrix.
struct Cache8 {
    uint8_t *keys;        // [group][head_dim / 4][16 positions][4]
    float *key_scales;    // [position]
    int8_t *values;       // [position / 4][head_dim / 16][16 channels][4 positions]
    float *value_scales;  // [position]
};

struct Kernels {
    const char *name;
    uint8_t flip;  // 8-bit weights are XORed with it: 0x80 where the products take them unsigned

    // y (n, y_stride) = rows @ matrix^T. Writes padded_rows() numbers a row.
    void (*matmul)(const Matrix &matrix, const Rows &rows, float *y, size_t y_stride);
    // x (n) to integers, scales and sums, for every 32; n is a multiple of 32.
    void (*quantize)(const float *x, size_t n, int8_t *q, float *scales, int32_t *sums);
    // x += scale * add (where add is not null), then y = x / rms(x) * weight.
    void (*add_norm)(float *x, const float *add, float scale, const float *weight, float eps,
                     size_t n, float *y);
    // y = silu(gate) * up
    void (*gated_silu)(const float *gate, const float *up, size_t n, float *y);
    // y += scale * x
    void (*axpy)(float scale, const float *x, size_t n, float *y);
    // out = silu(bias + sum over taps of window[tap] * weight[tap]); window has the rows in order
    void (*convolve)(const float *const *window, const float *weight, const float *bias,
                     size_t taps, size_t n, float *out);
    // One step of a Mamba-2 layer: softplus(dt + bias), the state (head, d_state, head_dim) decays
    // and takes u B^T, y = state C + D u; then y * silu(z), its norm, times `weight`.
    void (*ssm_step)(const float *z, const float *u, const float *B, const float *C,
                     const float *dt, const float *dt_bias, const float *a, const float *d,
                     const float *weight, float eps, size_t heads, size_t head_dim,
                     size_t d_state, float *state, float *y);
    // Rotates pairs of neighbours of one head by angles with these cosines and sines (n / 2).
    void (*rotate)(float *x, const float *cosines, const float *sines, size_t n);
    // Attention of `heads` queries (heads, head_dim) over `length` positions. Keys and values are
    // floats (position, head_dim rounded up to 16 with zeros); scratch has room for a float a
    // position, rounded up to 16.
    void (*attend)(const float *queries, const float *keys, const float *values, size_t heads,
                   size_t head_dim, size_t length, float scale, float *scratch, float *out);
    // The same over keys and values in 8 bits; head_dim is a multiple of 16.
    void (*attend8)(const float *queries, const Cache8 &cache, size_t heads, size_t head_dim,
                    size_t length, float scale, float *out);
    // Stores the key and the value of one position in 8 bits.
    void (*store8)(const Cache8 &cache, size_t position, const float *key, const float *value,
                   size_t head_dim);
    // log(sum(exp(x)))
    float (*log_sum_exp)(const float *x, size_t n);
    // The exclusive or of n bytes' words, n a multiple of 256, in the widest loads of this set.
    uint64_t (*read_bytes)(const std::byte *data, size_t n);
    // The greatest number, NaN left out; and whether there is any NaN.
    float (*maximum)(const float *x, size_t n, bool *has_nan);
    // The first index of the value, or n.
    size_t (*find)(const float *x, size_t n, float value);
    // The k experts with the greatest logits, in the order of their numbers, and a softmax over
    // them. NaN is less than all numbers. `logits`, with room for whole vectors, are used up.
    void (*route)(float *logits, size_t n, size_t k, uint32_t *chosen, float *weights);

    // Sampling, with the same bits from every table. Weights are 0 or more; lists of them have
    // room for whole vectors and end with zeros up to a multiple of 16.

    // weights = e^((x - max) / temperature), at most 1; returns their sum. Exact to about 1e-7 of
    // the value; 0 below e^-87.
    double (*exponentials)(const float *x, size_t n, float max, float temperature, float *weights);
    // The sum of the weights that are at least `least`, which is more than 0, and their number.
    double (*mass_from)(const float *weights, size_t n, float least, size_t *count);
    // The weights from `least` to less than `below`, in order, and their ids, to lists that may be
    // the given ones; returns their number.
    size_t (*select)(const float *weights, const uint32_t *ids, size_t n, float least, float below,
                     float *chosen, uint32_t *chosen_ids);
    // The greatest weight of each of as many groups, of `group` weights at most, as the result is.
    size_t (*maxima)(const float *weights, size_t n, size_t group, float *greatest);
    // The first index up to which the weights' sum exceeds `left`, or the last that is above 0.
    size_t (*draw)(const float *weights, size_t n, double left);
};

// Each is defined where the build is for its processor.
extern const Kernels kPortable, kAvx2, kAvx512, kNeon, kWasm;

// The fastest table that this processor can run; the environment variable ITERA_ISA (portable,
// avx2, avx512, neon, wasm-simd128) names another. Throws `Error` for a name that `kernels_named` doesn't know.
const Kernels &kernels();
// A table by name, or null where this build or this processor lacks it.
const Kernels *kernels_named(std::string_view name);

// The number with these 16 bits of an IEEE half.
float half_to_float(uint16_t bits);

}  // namespace itera
