// The kernels, written once over 16-wide vectors. A kernels_*.cc defines the vectors for one
// instruction set inside an unnamed namespace (nothing here may be shared between the sets: the
// linker would keep one copy, compiled for any of them), then includes this.
//
// It needs: F (16 floats), I (16 ints), load, store, set, fma, mul, add, half, bhalf, to_float,
// set_int, NT (rows of a tile), FLIP, and dot(I, const uint8_t *weights, int32_t four) and
// dot_low / dot_high for half bytes.

constexpr int kOffset8 = FLIP ? 128 : 0;

inline int32_t four(const int8_t *q) {
    int32_t bits;
    __builtin_memcpy(&bits, q, 4);
    return bits;
}

inline size_t row_of(const Rows &rows, uint32_t i) { return rows.index ? rows.index[i] : i; }

// ---- products ----

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

// ---- elementwise, left to the compiler's vectoriser ----

// exp to about 1e-7 relative: 2^k times a polynomial (Cephes). NaN gives the lower end.
inline float exp_of(float x) {
    x = x > -87.0f ? x : -87.0f;
    x = x < 88.0f ? x : 88.0f;
    const float k = __builtin_floorf(x * 1.44269504f + 0.5f);
    const float r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return p * __builtin_bit_cast(float, (int32_t(k) + 127) << 23);
}

inline float silu(float x) { return x / (1.0f + exp_of(-x)); }

inline float sum_of(const float *x, size_t n) {
    float part[16] = {};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) part[l] += x[i + l];
    for (; i < n; i++) part[0] += x[i];
    float total = 0;
    for (int l = 0; l < 16; l++) total += part[l];
    return total;
}

inline float squares_of(const float *x, size_t n) {
    float part[16] = {};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) part[l] += x[i + l] * x[i + l];
    for (; i < n; i++) part[0] += x[i] * x[i];
    float total = 0;
    for (int l = 0; l < 16; l++) total += part[l];
    return total;
}

inline float max_of(const float *x, size_t n) {
    float part[16];
    for (int l = 0; l < 16; l++) part[l] = -__builtin_inff();
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) part[l] = x[i + l] > part[l] ? x[i + l] : part[l];
    for (; i < n; i++) part[0] = x[i] > part[0] ? x[i] : part[0];
    float best = part[0];
    for (int l = 1; l < 16; l++) best = part[l] > best ? part[l] : best;
    return best;
}

// Integers of n numbers with one scale, which is returned; `sum` gets their sum. The largest is
// found by its bits: with NaN or infinity among the numbers the scale is one too, so that it shows
// in the results.
inline float quantize_group(const float *x, size_t n, int8_t *q, int32_t *sum) {
    int32_t part[16] = {};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) {
            const int32_t a = __builtin_bit_cast(int32_t, x[i + l]) & INT32_MAX;
            part[l] = a > part[l] ? a : part[l];
        }
    for (; i < n; i++) {
        const int32_t a = __builtin_bit_cast(int32_t, x[i]) & INT32_MAX;
        part[0] = a > part[0] ? a : part[0];
    }
    int32_t bits = 0;
    for (int l = 0; l < 16; l++) bits = part[l] > bits ? part[l] : bits;
    const float largest = __builtin_bit_cast(float, bits);
    const float scale = largest / 127.0f;
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
    int32_t total = 0;
    for (i = 0; i < n; i++) {
        float v = __builtin_rintf(x[i] * inverse);
        v = v > -127.0f ? v : -127.0f;  // NaN becomes -127
        v = v < 127.0f ? v : 127.0f;
        const int32_t k = int32_t(v);
        q[i] = int8_t(k);
        total += k;
    }
    *sum = total;
    return scale;
}

void quantize(const float *x, size_t n, int8_t *q, float *scales, int32_t *sums) {
    for (size_t b = 0; b < n / kBlock; b++)
        scales[b] = quantize_group(x + b * kBlock, kBlock, q + b * kBlock, sums + b);
}

void add_norm(float *__restrict x, const float *__restrict add, float scale,
              const float *__restrict weight, float eps, size_t n, float *__restrict y) {
    if (add)
        for (size_t i = 0; i < n; i++) x[i] += scale * add[i];
    const float r = 1.0f / __builtin_sqrtf(squares_of(x, n) / float(n) + eps);
    for (size_t i = 0; i < n; i++) y[i] = x[i] * r * weight[i];
}

void gated_silu(const float *__restrict gate, const float *__restrict up, size_t n,
                float *__restrict y) {
    for (size_t i = 0; i < n; i++) y[i] = silu(gate[i]) * up[i];
}

void axpy(float scale, const float *__restrict x, size_t n, float *__restrict y) {
    for (size_t i = 0; i < n; i++) y[i] += scale * x[i];
}

inline void axpy_weighted(const float *__restrict x, const float *__restrict w, size_t n,
                          float *__restrict y) {
    for (size_t i = 0; i < n; i++) y[i] += x[i] * w[i];
}

void convolve(const float *const *window, const float *__restrict weight,
              const float *__restrict bias, size_t taps, size_t n, float *__restrict out) {
    const float *w0 = window[0], *w1 = window[1];
    if (taps == 4) {
        const float *w2 = window[2], *w3 = window[3];
        for (size_t i = 0; i < n; i++)
            out[i] = silu(bias[i] + w0[i] * weight[i] + w1[i] * weight[n + i] +
                          w2[i] * weight[2 * n + i] + w3[i] * weight[3 * n + i]);
        return;
    }
    for (size_t i = 0; i < n; i++) out[i] = bias[i];
    for (size_t k = 0; k < taps; k++) axpy_weighted(window[k], weight + k * n, n, out);
    for (size_t i = 0; i < n; i++) out[i] = silu(out[i]);
}

void ssm_step(const float *__restrict z, const float *__restrict u, const float *__restrict B,
              const float *__restrict C, const float *__restrict dt,
              const float *__restrict dt_bias, const float *__restrict a,
              const float *__restrict d, const float *__restrict weight, float eps, size_t heads,
              size_t head_dim, size_t d_state, float *__restrict state, float *__restrict y) {
    for (size_t h = 0; h < heads; h++) {
        const float raw = dt[h] + dt_bias[h];
        const float step = raw > 20.0f ? raw : __builtin_log1pf(__builtin_expf(raw));
        const float decay = __builtin_expf(step * a[h]);
        const float *uh = u + h * head_dim;
        float *yh = y + h * head_dim;
        float *s = state + h * d_state * head_dim;
        for (size_t p = 0; p < head_dim; p++) yh[p] = d[h] * uh[p];
        for (size_t n = 0; n < d_state; n++, s += head_dim) {
            const float in = step * B[n], out = C[n];
            for (size_t p = 0; p < head_dim; p++) {
                s[p] = s[p] * decay + in * uh[p];
                yh[p] += out * s[p];
            }
        }
    }
    const size_t width = heads * head_dim;
    for (size_t i = 0; i < width; i++) y[i] *= silu(z[i]);
    const float r = 1.0f / __builtin_sqrtf(squares_of(y, width) / float(width) + eps);
    for (size_t i = 0; i < width; i++) y[i] *= r * weight[i];
}

void rotate(float *x, const float *cosines, const float *sines, size_t n) {
    for (size_t i = 0; i < n / 2; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cosines[i] - b * sines[i];
        x[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
}

float log_sum_exp(const float *x, size_t n) {
    const float top = max_of(x, n);
    float part[16] = {};
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) part[l] += exp_of(x[i + l] - top);
    for (; i < n; i++) part[0] += exp_of(x[i] - top);
    float total = 0;
    for (int l = 0; l < 16; l++) total += part[l];
    return top + __builtin_logf(total);
}

// ---- attention ----

// Scores to weights that sum to 1.
inline void softmax(float *x, size_t n) {
    const float top = max_of(x, n);
    for (size_t i = 0; i < n; i++) x[i] = exp_of(x[i] - top);
    const float r = 1.0f / sum_of(x, n);
    for (size_t i = 0; i < n; i++) x[i] *= r;
}

void attend(const float *queries, const float *keys, const float *values, size_t heads,
            size_t head_dim, size_t length, float scale, float *scratch, float *out) {
    for (size_t h = 0; h < heads; h++) {
        const float *q = queries + h * head_dim;
        for (size_t t = 0; t < length; t++) {
            const float *k = keys + t * head_dim;
            float part[16] = {};
            size_t i = 0;
            for (; i + 16 <= head_dim; i += 16)
                for (int l = 0; l < 16; l++) part[l] += q[i + l] * k[i + l];
            for (; i < head_dim; i++) part[0] += q[i] * k[i];
            float total = 0;
            for (int l = 0; l < 16; l++) total += part[l];
            scratch[t] = total * scale;
        }
        softmax(scratch, length);
        float *y = out + h * head_dim;
        for (size_t i = 0; i < head_dim; i++) y[i] = 0;
        for (size_t t = 0; t < length; t++) axpy(scratch[t], values + t * head_dim, head_dim, y);
    }
}

constexpr size_t kMaxHeadDim = 512;
constexpr size_t kHeadTile = 4;   // queries that share one pass over keys and values
constexpr size_t kSpan = 64;      // positions whose weights share a scale

void store8(const Cache8 &cache, size_t position, const float *key, const float *value,
            size_t head_dim) {
    int8_t q[kMaxHeadDim];
    int32_t sum;
    cache.key_scales[position] = quantize_group(key, head_dim, q, &sum);
    uint8_t *k = cache.keys + (position / 16) * (head_dim * 16) + (position % 16) * 4;
    for (size_t i = 0; i < head_dim; i++) k[(i / 4) * 64 + i % 4] = uint8_t(q[i]) ^ FLIP;
    cache.value_scales[position] = quantize_group(value, head_dim, q, &sum);
    uint8_t *v = cache.values + (position / 4) * (head_dim * 4) + position % 4;
    for (size_t i = 0; i < head_dim; i++) v[i * 4] = uint8_t(q[i]) ^ FLIP;
}

template <int T>
inline void attend8_tile(const float *queries, const Cache8 &cache, size_t head_dim,
                         size_t length, float scale, float *scratch, float *out) {
    const size_t room = (length + kSpan - 1) / kSpan * kSpan;
    alignas(64) int8_t q[T][kMaxHeadDim];
    int32_t sums[T];
    float scales[T];
    for (int t = 0; t < T; t++)
        scales[t] = scale * quantize_group(queries + t * head_dim, head_dim, q[t], sums + t);
    for (size_t first = 0; first < length; first += 16) {
        const uint8_t *k = cache.keys + first * head_dim;
        I acc[T];
        for (int t = 0; t < T; t++) acc[t] = set_int(-kOffset8 * sums[t]);
        for (size_t j = 0; j < head_dim / 4; j++)
            for (int t = 0; t < T; t++) acc[t] = dot(acc[t], k + 64 * j, four(q[t] + 4 * j));
        const F ks = load(cache.key_scales + first);
        for (int t = 0; t < T; t++)
            store(scratch + t * room + first, mul(to_float(acc[t]), mul(ks, set(scales[t]))));
    }
    const size_t groups = head_dim / 16;
    for (int t = 0; t < T; t++) {
        float *w = scratch + t * room;
        softmax(w, length);
        for (size_t i = 0; i < length; i++) w[i] *= cache.value_scales[i];
        for (size_t i = length; i < room; i++) w[i] = 0;
        for (size_t i = 0; i < head_dim; i++) out[t * head_dim + i] = 0;
    }
    alignas(64) int8_t p[T][kSpan];
    for (size_t first = 0; first < length; first += kSpan) {
        for (int t = 0; t < T; t++)
            scales[t] = quantize_group(scratch + t * room + first, kSpan, p[t], sums + t);
        const size_t quads = (length - first < kSpan ? length - first + 3 : kSpan) / 4;
        for (size_t g = 0; g < groups; g++) {
            const uint8_t *v = cache.values + first * head_dim + g * 64;
            I acc[T];
            for (int t = 0; t < T; t++) acc[t] = set_int(-kOffset8 * sums[t]);
            for (size_t j = 0; j < quads; j++)
                for (int t = 0; t < T; t++)
                    acc[t] = dot(acc[t], v + j * head_dim * 4, four(p[t] + 4 * j));
            for (int t = 0; t < T; t++) {
                float *y = out + t * head_dim + g * 16;
                store(y, fma(to_float(acc[t]), set(scales[t]), load(y)));
            }
        }
    }
}

void attend8(const float *queries, const Cache8 &cache, size_t heads, size_t head_dim,
             size_t length, float scale, float *scratch, float *out) {
    size_t h = 0;
    for (; h + kHeadTile <= heads; h += kHeadTile)
        attend8_tile<kHeadTile>(queries + h * head_dim, cache, head_dim, length, scale, scratch,
                                out + h * head_dim);
    for (; h < heads; h++)
        attend8_tile<1>(queries + h * head_dim, cache, head_dim, length, scale, scratch,
                        out + h * head_dim);
}

// ---- bandwidth ----

// 64 bytes, in as many registers as the set needs. Four sums keep two loads a cycle going.
typedef uint64_t Words __attribute__((vector_size(64), aligned(64), may_alias));

uint64_t read_bytes(const std::byte *data, size_t n) {
    const Words *w = reinterpret_cast<const Words *>(data);
    Words a = {}, b = {}, c = {}, d = {};
    for (size_t i = 0; i + 4 <= n / 64; i += 4) {
        a ^= w[i];
        b ^= w[i + 1];
        c ^= w[i + 2];
        d ^= w[i + 3];
    }
    a ^= b ^ c ^ d;
    uint64_t all = 0;
    for (int l = 0; l < 8; l++) all ^= a[l];
    return all;
}
