// Attention over keys and values in floats or in 8 bits; included by impl.h.

// Scores to exp(score - max), the last 16 filled up with zeros; returns 1 / their sum.
inline float softmax_terms(float *x, size_t n) {
    const size_t end = (n + 15) & ~size_t(15);
    for (size_t i = n; i < end; i++) x[i] = -__builtin_inff();
    F best = load(x);
    for (size_t i = 16; i < end; i += 16) best = max(load(x + i), best);
    const F most = set(top(best));
    F total = set(0.0f);
    for (size_t i = 0; i < end; i += 16) {
        const F e = exp(sub(load(x + i), most));
        store(x + i, e);
        total = add(total, e);
    }
    for (size_t i = n; i < end; i++) x[i] = 0;
    return 1.0f / sum(total);
}

constexpr size_t kMaxHeadDim = 512;

void attend(const float *queries, const float *keys, const float *values, size_t heads,
            size_t head_dim, size_t length, float scale, float *scratch, float *out) {
    const size_t width = (head_dim + 15) / 16 * 16;
    alignas(64) float q[kMaxHeadDim], y[kMaxHeadDim];
    for (size_t h = 0; h < heads; h++) {
        for (size_t i = 0; i < width; i++) q[i] = i < head_dim ? queries[h * head_dim + i] : 0;
        for (size_t t = 0; t < length; t++) {
            F part = set(0.0f);
            for (size_t i = 0; i < width; i += 16)
                part = fma(load(q + i), load(keys + t * width + i), part);
            scratch[t] = sum(part) * scale;
        }
        const float r = softmax_terms(scratch, length);
        for (size_t i = 0; i < width; i += 16) {
            F even = set(0.0f), odd = set(0.0f);
            size_t t = 0;
            for (; t + 2 <= length; t += 2) {
                even = fma(set(scratch[t]), load(values + t * width + i), even);
                odd = fma(set(scratch[t + 1]), load(values + (t + 1) * width + i), odd);
            }
            if (t < length) even = fma(set(scratch[t]), load(values + t * width + i), even);
            store(y + i, mul(add(even, odd), set(r)));
        }
        for (size_t i = 0; i < head_dim; i++) out[h * head_dim + i] = y[i];
    }
}

constexpr size_t kHeadTile = 4;  // queries that share one pass over keys and values
constexpr size_t kSpan = kCacheStep;  // positions whose weights share a scale

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

// 2^x to 1e-4, for weights that are rounded to 8 bits: a cubic fitted to [-1/2, 1/2].
inline F exp2_roughly(F x) {
    x = max(x, set(-126.0f));
    const F k = round(x), f = sub(x, k);
    const F p = fma(fma(fma(set(0.05517166f), f, set(0.24261112f)), f, set(0.69326099f)), f,
                    set(0.99992807f));
    return scale2(p, k);
}

// Products of positions [first, first + 16 G) with T queries, times the keys' scales but not the
// queries', to out[query][0, 16 G); the greatest are kept.
template <int G, int T>
inline void score8(const Cache8 &cache, size_t first, const int8_t (*q)[kMaxHeadDim],
                   const int32_t *sums, size_t head_dim, float *const *out, F *best) {
    const uint8_t *k = cache.keys + first * head_dim;
    I acc[G][T];
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) acc[g][t] = set_int(-kOffset8 * sums[t]);
    for (size_t j = 0; j < head_dim / 4; j++)
        for (int t = 0; t < T; t++) {
            const int32_t bits = four(q[t] + 4 * j);
            for (int g = 0; g < G; g++)
                acc[g][t] = dot(acc[g][t], k + g * head_dim * 16 + 64 * j, bits);
        }
    for (int g = 0; g < G; g++) {
        const F ks = load(cache.key_scales + first + 16 * g);
        for (int t = 0; t < T; t++) {
            const F s = mul(to_float(acc[g][t]), ks);
            store(out[t] + 16 * g, s);
            best[t] = max(s, best[t]);
        }
    }
}

// Scores of a span to weights: 2^(scale * score - most) times the scale of each value. Adds to the
// sum of the former; returns the greatest of the latter.
inline F weigh_span(float *scores, const float *value_scales, F scale, F most, F *total) {
    const F less = sub(set(0.0f), most);
    F largest = set(0.0f);
    for (size_t i = 0; i < kSpan; i += 16) {
        const F e = exp2_roughly(fma(load(scores + i), scale, less));
        *total = add(*total, e);
        const F w = mul(e, load(value_scales + i));
        store(scores + i, w);
        largest = max(w, largest);
    }
    return largest;
}

// Weights of a span in 8 bits, `scale` each; adds the sum of the integers, times it, to `offset`.
inline void round_span(const float *weights, float scale, int8_t *p, F *offset) {
    const F inverse = set(scale > 1e-30f ? 1.0f / scale : 0.0f);  // less adds nothing
    I sums = set_int(0);
    for (size_t i = 0; i < kSpan; i += 16) {
        const I n = to_int(mul(load(weights + i), inverse));
        store_bytes(p + i, n);
        sums = add_int(sums, n);
    }
    *offset = fma(to_float(sums), set(scale), *offset);
}

// The running softmax of one query: it is rescaled when a greater score comes (Milakov and
// Gimelshein, 2018), so that scores needn't be kept.
struct Running {
    F most, total, offset;
    F y[kMaxHeadDim / 16];

    void rise(float greatest, size_t groups) {
        const F now = max(set(greatest), most), shrink = exp2_roughly(sub(most, now));
        most = now;
        total = mul(total, shrink);
        offset = mul(offset, shrink);
        for (size_t g = 0; g < groups; g++) y[g] = mul(y[g], shrink);
    }
};

// Adds the values of a span times their weights: G groups of 16 channels for T queries.
template <int G, int T>
inline void gather8(const uint8_t *v, size_t quads, size_t head_dim, const int8_t (*p)[kSpan],
                    const float *scales, size_t group, Running *out) {
    I acc[G][T];
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) acc[g][t] = set_int(0);
    for (size_t j = 0; j < quads; j++)
        for (int t = 0; t < T; t++) {
            const int32_t bits = four(p[t] + 4 * j);
            for (int g = 0; g < G; g++)
                acc[g][t] = dot(acc[g][t], v + j * head_dim * 4 + (group + g) * 64, bits);
        }
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++)
            out[t].y[group + g] = fma(to_float(acc[g][t]), set(scales[t]), out[t].y[group + g]);
}

template <int T>
inline void attend8_tile(const float *queries, const Cache8 &cache, size_t head_dim,
                         size_t length, float scale, float *out) {
    constexpr int G = T > 1 ? 2 : 4;
    constexpr size_t kSpans = 4, kChunk = kSpans * kSpan;  // scores that stay in the nearest cache
    const size_t groups = head_dim / 16;
    alignas(64) int8_t q[T][kMaxHeadDim], p[kSpans][T][kSpan];
    alignas(64) float scores[T][kChunk];
    int32_t sums[T];
    float scales[T], weight_scales[kSpans][T];
    Running running[T];
    for (int t = 0; t < T; t++) {
        scales[t] = scale * 1.44269504f *
                    quantize_group(queries + t * head_dim, head_dim, q[t], sums + t);
        running[t].most = set(-1e30f);
        running[t].total = running[t].offset = set(0.0f);
        for (size_t g = 0; g < groups; g++) running[t].y[g] = set(0.0f);
    }
    for (size_t first = 0; first < length; first += kChunk) {
        const size_t n = length - first < kChunk ? length - first : kChunk;
        const size_t spans = (n + kSpan - 1) / kSpan;
        F best[T], last[T];  // of whole vectors, and of those that reach past the end
        for (int t = 0; t < T; t++) best[t] = last[t] = set(-1e30f);
        for (size_t i = 0; i < n; i += 16 * G) {
            float *to[T];
            for (int t = 0; t < T; t++) to[t] = scores[t] + i;
            score8<G, T>(cache, first + i, q, sums, head_dim, to, i + 16 * G <= n ? best : last);
        }
        for (int t = 0; t < T; t++) {
            float *s = scores[t];
            size_t i = n;
            for (; i % 16; i++) s[i] = -1e30f;
            for (; i < spans * kSpan; i += 16) store(s + i, set(-1e30f));
            for (i = n / (16 * G) * (16 * G); i < n; i += 16) best[t] = max(load(s + i), best[t]);
            running[t].rise(scales[t] * top(best[t]), groups);
        }
        // In two loops: the greatest weight of one query is found while the next one is weighed.
        for (size_t span = 0; span < spans; span++) {
            F largest[T];
            for (int t = 0; t < T; t++)
                largest[t] = weigh_span(scores[t] + span * kSpan,
                                        cache.value_scales + first + span * kSpan, set(scales[t]),
                                        running[t].most, &running[t].total);
            for (int t = 0; t < T; t++) weight_scales[span][t] = top(largest[t]) / 127.0f;
        }
        for (size_t span = 0; span < spans; span++)
            for (int t = 0; t < T; t++)
                round_span(scores[t] + span * kSpan, weight_scales[span][t], p[span][t],
                           &running[t].offset);
        for (size_t span = 0; span < spans; span++) {
            const uint8_t *v = cache.values + (first + span * kSpan) * head_dim;
            const size_t rest = n - span * kSpan, quads = (rest < kSpan ? rest + 3 : kSpan) / 4;
            size_t g = 0;
            for (; g + 2 <= groups; g += 2)
                gather8<2, T>(v, quads, head_dim, p[span], weight_scales[span], g, running);
            for (; g < groups; g++)
                gather8<1, T>(v, quads, head_dim, p[span], weight_scales[span], g, running);
        }
    }
    for (int t = 0; t < T; t++) {
        const F r = set(1.0f / sum(running[t].total));
        const F shift = set(-kOffset8 * sum(running[t].offset));
        for (size_t g = 0; g < groups; g++)
            store(out + t * head_dim + g * 16, mul(add(running[t].y[g], shift), r));
    }
}

void attend8(const float *queries, const Cache8 &cache, size_t heads, size_t head_dim,
             size_t length, float scale, float *out) {
    size_t h = 0;
    for (; h + kHeadTile <= heads; h += kHeadTile)
        attend8_tile<kHeadTile>(queries + h * head_dim, cache, head_dim, length, scale,
                                out + h * head_dim);
    for (; h < heads; h++)
        attend8_tile<1>(queries + h * head_dim, cache, head_dim, length, scale, out + h * head_dim);
}
