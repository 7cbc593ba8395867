// Products of a packed matrix; included by impl.h.

constexpr int kOffset8 = FLIP ? 128 : 0;

struct Sum8 {  // 16 sums of a block's products with weights of 8 bits
    I sums;
};
inline I total(const Sum8 &acc) { return acc.sums; }

inline int32_t four(const int8_t *q) {
    int32_t bits;
    __builtin_memcpy(&bits, q, 4);
    return bits;
}

inline size_t row_of(const Rows &rows, uint32_t i) { return rows.index ? rows.index[i] : i; }

inline F weights(const float *w) { return load(w); }
struct Half {
    uint16_t bits;
};
struct BrainHalf {
    uint16_t bits;
};
inline F weights(const Half *w) { return half(&w->bits); }
inline F weights(const BrainHalf *w) { return bhalf(&w->bits); }

// Even and odd columns have a sum each, so that an addition doesn't wait for the one before.
template <class W, int G, int T>
[[gnu::always_inline]] inline void tile_float(const Matrix &m, uint32_t group,
                                              const float *const *x, float *const *y) {
    const W *w = reinterpret_cast<const W *>(m.data + group * m.group_bytes);
    const size_t step = m.group_bytes / sizeof(W);
    F even[G][T], odd[G][T];
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) even[g][t] = odd[g][t] = set(0.0f);
    uint32_t c = 0;
    for (; c + 2 <= m.columns; c += 2)
        for (int g = 0; g < G; g++) {
            const F w0 = weights(w + g * step + c * kLanes);
            const F w1 = weights(w + g * step + (c + 1) * kLanes);
            for (int t = 0; t < T; t++) {
                even[g][t] = fma(w0, set(x[t][c]), even[g][t]);
                odd[g][t] = fma(w1, set(x[t][c + 1]), odd[g][t]);
            }
        }
    if (c < m.columns)
        for (int g = 0; g < G; g++)
            for (int t = 0; t < T; t++)
                even[g][t] = fma(weights(w + g * step + c * kLanes), set(x[t][c]), even[g][t]);
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) store(y[t] + (group + g) * kLanes, add(even[g][t], odd[g][t]));
}

struct QuantRow {
    const int8_t *q;
    const float *scales;
    const int32_t *sums;
};

// G groups go together, so that each broadcast input is multiplied by several weights.
template <TensorType type, int G, int T>
[[gnu::always_inline]] inline void tile_quantized(const Matrix &m, uint32_t group,
                                                  const QuantRow *x, float *const *y) {
    constexpr bool is_q8 = type == TensorType::Q8_0;
    constexpr uint32_t bytes = (is_q8 ? 32 : 16) * kLanes;  // of a block's weights
    const uint32_t blocks = m.columns / kBlock;
    const uint8_t *w = reinterpret_cast<const uint8_t *>(m.data + group * m.group_bytes);
    F sum[G][T];
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) sum[g][t] = set(0.0f);
    for (uint32_t b = 0; b < blocks; b++) {
        std::conditional_t<is_q8, Sum8, Sum4> acc[G][T];
        for (int t = 0; t < T; t++) {
            const I start = set_int(-(is_q8 ? kOffset8 : 8) * x[t].sums[b]);
            for (int g = 0; g < G; g++)
                if constexpr (is_q8) acc[g][t] = {start};
                else acc[g][t] = begin(start);
        }
#pragma GCC unroll UNROLL
        for (uint32_t j = 0; j < bytes / 64; j++)
            if constexpr (is_q8) {
                for (int t = 0; t < T; t++) {
                    const int32_t q = four(x[t].q + b * kBlock + 4 * j);
                    for (int g = 0; g < G; g++)
                        acc[g][t].sums = dot(acc[g][t].sums,
                                             w + g * m.group_bytes + b * bytes + 64 * j, q);
                }
            } else {
                for (int g = 0; g < G; g++) {
                    const Nibbles pair = nibbles(w + g * m.group_bytes + b * bytes + 64 * j);
                    for (int t = 0; t < T; t++) {
                        const int8_t *q = x[t].q + b * kBlock + 4 * j;
                        acc[g][t] = dot_low(acc[g][t], pair, four(q));
                        acc[g][t] = dot_high(acc[g][t], pair, four(q + 16));
                    }
                }
            }
        for (int g = 0; g < G; g++) {
            const uint8_t *scales = w + g * m.group_bytes + blocks * bytes + b * 32;
            const F scale = half(reinterpret_cast<const uint16_t *>(scales));
            for (int t = 0; t < T; t++)
                sum[g][t] = fma(to_float(total(acc[g][t])), mul(scale, set(x[t].scales[b])),
                                sum[g][t]);
        }
    }
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) store(y[t] + (group + g) * kLanes, sum[g][t]);
}

// Groups [group, group + G) for T rows.
template <TensorType type, int G, int T>
[[gnu::always_inline]] inline void tile(const Matrix &m, uint32_t group, const float *const *x,
                                        const QuantRow *q, float *const *y) {
    if constexpr (type == TensorType::F32) tile_float<float, G, T>(m, group, x, y);
    if constexpr (type == TensorType::F16) tile_float<Half, G, T>(m, group, x, y);
    if constexpr (type == TensorType::BF16) tile_float<BrainHalf, G, T>(m, group, x, y);
    if constexpr (is_quantized(type)) tile_quantized<type, G, T>(m, group, q, y);
}

// Groups from `group` on for T rows: G at a time, then half as many for what is left.
template <TensorType type, int G, int T>
[[gnu::always_inline]] inline void tiles(const Matrix &m, uint32_t group, const float *const *x,
                                         const QuantRow *q, float *const *y) {
    for (; group + G <= m.groups(); group += G) tile<type, G, T>(m, group, x, q, y);
    if constexpr (G > 1) tiles<type, G / 2, T>(m, group, x, q, y);
}

// All groups for T rows.
template <TensorType type, int G, int T>
inline void product(const Matrix &m, const Rows &rows, uint32_t first, float *y, size_t stride) {
    const float *x[T];
    QuantRow q[T] = {};
    float *out[T];
    for (int t = 0; t < T; t++) {
        const size_t row = row_of(rows, first + t);
        x[t] = rows.x + row * rows.stride;
        out[t] = y + (first + t) * stride;
        if constexpr (is_quantized(type))
            q[t] = {rows.q + row * rows.stride, rows.scales + row * (rows.stride / kBlock),
                    rows.sums + row * (rows.stride / kBlock)};
    }
    tiles<type, G, T>(m, 0, x, q, out);
}

// Rows from `first` on: T at a time, then half as many with twice the groups for what is left.
template <TensorType type, int T = TILE>
inline void matmul_of(const Matrix &m, const Rows &rows, float *y, size_t stride,
                      uint32_t first = 0) {
    for (; first + T <= rows.n; first += T) product<type, TILE / T, T>(m, rows, first, y, stride);
    if constexpr (T > 1) matmul_of<type, T / 2>(m, rows, y, stride, first);
}

void matmul(const Matrix &m, const Rows &rows, float *y, size_t stride) {
    switch (m.type) {
    case TensorType::F32: return matmul_of<TensorType::F32>(m, rows, y, stride);
    case TensorType::F16: return matmul_of<TensorType::F16>(m, rows, y, stride);
    case TensorType::BF16: return matmul_of<TensorType::BF16>(m, rows, y, stride);
    case TensorType::Q8_0: return matmul_of<TensorType::Q8_0>(m, rows, y, stride);
    case TensorType::Q4_0: return matmul_of<TensorType::Q4_0>(m, rows, y, stride);
    }
}
