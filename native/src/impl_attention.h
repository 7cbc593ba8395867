// Attention over a memory of keys and values, in floats or in 8 bits; included by kernels_impl.h.

// Scores to exp(score - max), the last 16 filled up with zeros, each times its factor where there
// are factors; returns 1 / the sum without them.
inline float softmax_terms(float *x, size_t n, const float *factors = nullptr) {
    const size_t end = (n + 15) & ~size_t(15);
    for (size_t i = n; i < end; i++) x[i] = -__builtin_inff();
    F best = load(x);
    for (size_t i = 16; i < end; i += 16) best = max(load(x + i), best);
    const F most = set(top(best));
    F total = set(0.0f);
    for (size_t i = 0; i < end; i += 16) {
        const F e = exp(sub(load(x + i), most));
        store(x + i, factors ? mul(e, load(factors + i)) : e);
        total = add(total, e);
    }
    for (size_t i = n; i < end; i++) x[i] = 0;
    return 1.0f / sum(total);
}

void attend(const float *queries, const float *keys, const float *values, size_t heads,
            size_t head_dim, size_t length, float scale, float *scratch, float *out) {
    for (size_t h = 0; h < heads; h++) {
        const float *q = queries + h * head_dim;
        for (size_t t = 0; t < length; t++) {
            const float *k = keys + t * head_dim;
            F part = set(0.0f);
            size_t i = 0;
            for (; i + 16 <= head_dim; i += 16) part = fma(load(q + i), load(k + i), part);
            float dot_product = sum(part);
            for (; i < head_dim; i++) dot_product += q[i] * k[i];
            scratch[t] = dot_product * scale;
        }
        const float r = softmax_terms(scratch, length);
        float *y = out + h * head_dim;
        for (size_t i = 0; i < head_dim; i++) y[i] = 0;
        size_t i = 0;
        for (; i + 16 <= head_dim; i += 16) {
            F total = set(0.0f);
            for (size_t t = 0; t < length; t++)
                total = fma(set(scratch[t]), load(values + t * head_dim + i), total);
            store(y + i, mul(total, set(r)));
        }
        for (; i < head_dim; i++) {
            for (size_t t = 0; t < length; t++) y[i] += scratch[t] * values[t * head_dim + i];
            y[i] *= r;
        }
    }
}

constexpr size_t kMaxHeadDim = 512;
constexpr size_t kHeadTile = 4;   // queries that share one pass over keys and values
constexpr size_t kSpan = 64;      // positions whose weights share a scale

void store8(const Cache8 &cache, size_t position, const float *key, const float *value,
            size_t head_dim) {
    alignas(64) int8_t q[kMaxHeadDim];
    int32_t total;
    cache.key_scales[position] = quantize_group(key, head_dim, q, &total);
    uint8_t *k = cache.keys + (position / 16) * (head_dim * 16) + (position % 16) * 4;
    for (size_t i = 0; i < head_dim; i += 4) {
        const uint32_t quad = uint32_t(four(q + i)) ^ (FLIP * 0x01010101u);
        __builtin_memcpy(k + i * 16, &quad, 4);
    }
    cache.value_scales[position] = quantize_group(value, head_dim, q, &total);
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
    // The scale of each value goes into its weight; 1 / sum is applied at the end.
    float inverse[T];
    for (int t = 0; t < T; t++) {
        float *w = scratch + t * room;
        inverse[t] = softmax_terms(w, length, cache.value_scales);
        for (size_t i = length; i < room; i++) w[i] = 0;
    }
    const size_t groups = head_dim / 16;
    F total[T][kMaxHeadDim / 16];
    for (int t = 0; t < T; t++)
        for (size_t g = 0; g < groups; g++) total[t][g] = set(0.0f);
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
            for (int t = 0; t < T; t++)
                total[t][g] = fma(to_float(acc[t]), set(scales[t]), total[t][g]);
        }
    }
    for (int t = 0; t < T; t++)
        for (size_t g = 0; g < groups; g++)
            store(out + t * head_dim + g * 16, mul(total[t][g], set(inverse[t])));
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
