// Products of a packed matrix; included by kernels_impl.h.

constexpr int kOffset8 = FLIP ? 128 : 0;

inline int32_t four(const int8_t *q) {
    int32_t bits;
    __builtin_memcpy(&bits, q, 4);
    return bits;
}

inline size_t row_of(const Rows &rows, uint32_t i) { return rows.index ? rows.index[i] : i; }

template <int G, int T>
inline void tile_f32(const Matrix &m, uint32_t group, const float *const *x, float *const *y) {
    const float *w = reinterpret_cast<const float *>(m.data + group * m.group_bytes);
    const size_t step = m.group_bytes / 4;
    F sum[G][T];
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) sum[g][t] = set(0.0f);
    for (uint32_t c = 0; c < m.columns; c++)
        for (int g = 0; g < G; g++) {
            const F wc = load(w + g * step + c * kLanes);
            for (int t = 0; t < T; t++) sum[g][t] = fma(wc, set(x[t][c]), sum[g][t]);
        }
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) store(y[t] + (group + g) * kLanes, sum[g][t]);
}

template <int G, int T, bool BF>
inline void tile_f16(const Matrix &m, uint32_t group, const float *const *x, float *const *y) {
    const uint16_t *w = reinterpret_cast<const uint16_t *>(m.data + group * m.group_bytes);
    const size_t step = m.group_bytes / 2;
    F sum[G][T];
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) sum[g][t] = set(0.0f);
    for (uint32_t c = 0; c < m.columns; c++)
        for (int g = 0; g < G; g++) {
            const uint16_t *at = w + g * step + c * kLanes;
            const F wc = BF ? bhalf(at) : half(at);
            for (int t = 0; t < T; t++) sum[g][t] = fma(wc, set(x[t][c]), sum[g][t]);
        }
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) store(y[t] + (group + g) * kLanes, sum[g][t]);
}

struct QuantRow {
    const int8_t *q;
    const float *scales;
    const int32_t *sums;
};

template <int G, int T>
inline void tile_q8(const Matrix &m, uint32_t group, const QuantRow *x, float *const *y) {
    const uint32_t blocks = m.columns / kBlock;
    const uint8_t *w = reinterpret_cast<const uint8_t *>(m.data + group * m.group_bytes);
    F sum[G][T];
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) sum[g][t] = set(0.0f);
    for (uint32_t b = 0; b < blocks; b++)
        for (int g = 0; g < G; g++) {
            const uint8_t *wb = w + g * m.group_bytes + b * 512;
            I acc[T];
            for (int t = 0; t < T; t++) acc[t] = set_int(-kOffset8 * x[t].sums[b]);
            for (int j = 0; j < 8; j++)
                for (int t = 0; t < T; t++)
                    acc[t] = dot(acc[t], wb + 64 * j, four(x[t].q + b * kBlock + 4 * j));
            const F scale = half(reinterpret_cast<const uint16_t *>(
                w + g * m.group_bytes + blocks * 512 + b * 32));
            for (int t = 0; t < T; t++)
                sum[g][t] = fma(to_float(acc[t]), mul(scale, set(x[t].scales[b])), sum[g][t]);
        }
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) store(y[t] + (group + g) * kLanes, sum[g][t]);
}

template <int G, int T>
inline void tile_q4(const Matrix &m, uint32_t group, const QuantRow *x, float *const *y) {
    const uint32_t blocks = m.columns / kBlock;
    const uint8_t *w = reinterpret_cast<const uint8_t *>(m.data + group * m.group_bytes);
    F sum[G][T];
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) sum[g][t] = set(0.0f);
    for (uint32_t b = 0; b < blocks; b++)
        for (int g = 0; g < G; g++) {
            const uint8_t *wb = w + g * m.group_bytes + b * 256;
            I acc[T];
            for (int t = 0; t < T; t++) acc[t] = set_int(-8 * x[t].sums[b]);
            for (int j = 0; j < 4; j++) {
                const Nibbles pair = nibbles(wb + 64 * j);
                for (int t = 0; t < T; t++) {
                    const int8_t *q = x[t].q + b * kBlock + 4 * j;
                    acc[t] = dot_low(acc[t], pair, four(q));
                    acc[t] = dot_high(acc[t], pair, four(q + 16));
                }
            }
            const F scale = half(reinterpret_cast<const uint16_t *>(
                w + g * m.group_bytes + blocks * 256 + b * 32));
            for (int t = 0; t < T; t++)
                sum[g][t] = fma(to_float(acc[t]), mul(scale, set(x[t].scales[b])), sum[g][t]);
        }
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) store(y[t] + (group + g) * kLanes, sum[g][t]);
}

// All groups for T rows; G groups at a time keep the vector units busy where T is small.
template <int G, int T>
inline void product(const Matrix &m, const Rows &rows, uint32_t first, float *y, size_t stride) {
    const float *x[T];
    QuantRow q[T] = {};
    float *out[T];
    for (int t = 0; t < T; t++) {
        const size_t row = row_of(rows, first + t);
        x[t] = rows.x + row * rows.stride;
        out[t] = y + (first + t) * stride;
        if (m.quantized())
            q[t] = {rows.q + row * rows.stride, rows.scales + row * (rows.stride / kBlock),
                    rows.sums + row * (rows.stride / kBlock)};
    }
    const uint32_t groups = m.groups();
    uint32_t g = 0;
    for (; g + G <= groups; g += G) switch (m.type) {
        case TensorType::F32: tile_f32<G, T>(m, g, x, out); break;
        case TensorType::F16: tile_f16<G, T, false>(m, g, x, out); break;
        case TensorType::BF16: tile_f16<G, T, true>(m, g, x, out); break;
        case TensorType::Q8_0: tile_q8<G, T>(m, g, q, out); break;
        case TensorType::Q4_0: tile_q4<G, T>(m, g, q, out); break;
        }
    if constexpr (G > 1)
        for (; g < groups; g++) switch (m.type) {
            case TensorType::F32: tile_f32<1, T>(m, g, x, out); break;
            case TensorType::F16: tile_f16<1, T, false>(m, g, x, out); break;
            case TensorType::BF16: tile_f16<1, T, true>(m, g, x, out); break;
            case TensorType::Q8_0: tile_q8<1, T>(m, g, q, out); break;
            case TensorType::Q4_0: tile_q4<1, T>(m, g, q, out); break;
            }
}

void matmul(const Matrix &m, const Rows &rows, float *y, size_t stride) {
    uint32_t i = 0;
    for (; i + NT <= rows.n; i += NT) product<1, NT>(m, rows, i, y, stride);
    for (; i < rows.n; i++) product<4, 1>(m, rows, i, y, stride);
}
