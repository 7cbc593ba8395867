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
constexpr size_t kSpans = 4;  // whose scores are computed before the first is weighed
constexpr size_t kChunk = kSpans * kSpan;

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
    int8_t *v = cache.values + (position / 4) * (head_dim * 4) + position % 4;
    for (size_t i = 0; i < head_dim; i++) v[i * 4] = q[i];
}

// 2^x for x >= -126, to 1e-4: a cubic fitted to [-1/2, 1/2].
inline F exp2_roughly(F x) {
    x = max(x, set(-126.0f));
    const F k = round(x), f = sub(x, k);
    const F p = fma(fma(fma(set(0.05517166f), f, set(0.24261112f)), f, set(0.69326099f)), f,
                    set(0.99992807f));
    return scale2(p, k);
}

// Products of the positions of a span with T queries, times the keys' scales but not the queries',
// to scores[query]; best[query] is the greatest of the first n.
template <int T>
inline void score8(const Cache8 &cache, size_t first, size_t n, const int8_t (*q)[kMaxHeadDim],
                   const int32_t *sums, size_t head_dim, float (*scores)[kSpan], float *best) {
    constexpr int G = T > 1 ? (TILE + 3) / 4 : 4;  // groups of 16 positions that share a query
    F greatest[T];
    for (int t = 0; t < T; t++) greatest[t] = set(-1e30f);
    for (size_t i = 0; i < n; i += 16 * G) {
        const uint8_t *k = cache.keys + (first + i) * head_dim;
        I acc[G][T];
        for (int g = 0; g < G; g++)
            for (int t = 0; t < T; t++) acc[g][t] = set_int(-kOffset8 * sums[t]);
#pragma GCC unroll 8
        for (size_t j = 0; j < head_dim / 4; j++)
            for (int t = 0; t < T; t++) {
                const int32_t bits = four(q[t] + 4 * j);
                for (int g = 0; g < G; g++)
                    acc[g][t] = dot(acc[g][t], k + g * head_dim * 16 + 64 * j, bits);
            }
        for (int g = 0; g < G; g++) {
            const F ks = load(cache.key_scales + first + i + 16 * g);
            for (int t = 0; t < T; t++) {
                const F s = mul(to_float(acc[g][t]), ks);
                store(scores[t] + i + 16 * g, s);
                greatest[t] = max(s, greatest[t]);
            }
        }
    }
    if (n < kSpan)  // none of what lies behind the last position
        for (int t = 0; t < T; t++) {
            size_t i = n;
            for (; i % 16; i++) scores[t][i] = -1e30f;
            for (; i < kSpan; i += 16) store(scores[t] + i, set(-1e30f));
            greatest[t] = load(scores[t]);
            for (i = 16; i < n; i += 16) greatest[t] = max(load(scores[t] + i), greatest[t]);
        }
    for (int t = 0; t < T; t++) best[t] = top(greatest[t]);
}

// Scores of a span to weights of its values in 8 bits: 3 * 2^(scale * (score - best)) times the
// value's scale, which leaves at most 127. Returns the sum of the powers, three times as great too.
inline F weigh_span(const float *scores, const float *value_scales, size_t n, float scale,
                    float best, int8_t *weights) {
    // The bits of 2^x are 2^23 x but for the lower 23: there m = 1 + f stands for 2^f, which is
    // (m^2 + 2) / 3 to 4e-3. Rounding to 8 bits costs as much.
    constexpr float kOne = 8388608.0f;
    constexpr int32_t kExponent = ~0x7fffff, kLeast = -87 * (1 << 23);
    const F by = set(scale * kOne), greatest = set(best), two = set(2.0f);
    F total = set(0.0f);
    for (size_t i = 0; i < n; i += 64) {
        I w[4];
        for (size_t j = 0; j < 4; j++) {
            const F power = mul(sub(load(scores + i + 16 * j), greatest), by);
            const I x = max_int(to_int(power), set_int(kLeast));
            const F m = as_float(bits_of(x, set_int(~kExponent), set_int(0x3f800000)));
            const I whole = and_int(x, set_int(kExponent));
            const F e = as_float(add_int(as_int(fma(m, m, two)), whole));
            total = add(total, e);
            w[j] = to_int(mul(e, load(value_scales + i + 16 * j)));
        }
        store_bytes(weights + i, w[0], w[1], w[2], w[3]);
    }
    return total;
}

// Adds the values of a span times their weights: G groups of 16 channels for T queries.
template <int G, int T>
inline void gather8(const int8_t *v, size_t quads, size_t head_dim, const int8_t (*p)[kSpan],
                    const float *scales, size_t group, F (*y)[kMaxHeadDim / 16]) {
    I acc[G][T];
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++) acc[g][t] = set_int(0);
    for (size_t j = 0; j < quads; j++)
        for (int t = 0; t < T; t++) {
            const int32_t bits = four(p[t] + 4 * j);
            for (int g = 0; g < G; g++)
                acc[g][t] = dot_values(acc[g][t], v + j * head_dim * 4 + (group + g) * 64, bits);
        }
    for (int g = 0; g < G; g++)
        for (int t = 0; t < T; t++)
            y[t][group + g] = fma(to_float(acc[g][t]), set(scales[t]), y[t][group + g]);
}

// Calls use<T>() with a constant T of 1 to kHeadTile.
template <class Use> inline void with_constant(int count, Use use) {
    switch (count) {
    case 1: return use.template operator()<1>();
    case 2: return use.template operator()<2>();
    case 3: return use.template operator()<3>();
    default: return use.template operator()<kHeadTile>();
    }
}

// Of at most kHeadTile heads; D is head_dim or, where that isn't known, 0. A running softmax: what
// was added is rescaled when a greater score comes (Milakov and Gimelshein, 2018), so that scores
// needn't be kept. The weights of a span are relative to the greatest score in it.
template <size_t D>
inline void attend8_tile(const float *queries, const Cache8 &cache, int heads, size_t any_dim,
                         size_t length, float scale, float *out) {
    constexpr int T = kHeadTile;
    const size_t head_dim = D ? D : any_dim, groups = head_dim / 16;
    alignas(64) int8_t q[T][kMaxHeadDim], p[kSpans][T][kSpan];
    alignas(64) float scores[kSpans][T][kSpan], value_scales[kSpan] = {};
    int32_t sums[T];
    float scales[T], most[T];
    F total[T], y[T][kMaxHeadDim / 16];
    for (int t = 0; t < heads; t++) {
        scales[t] = scale * 1.44269504f *
                    quantize_group(queries + t * head_dim, head_dim, q[t], sums + t);
        if (scales[t] < 1e-20f) scales[t] = 1e-20f;  // or -1e30 would be a score as good as others
        most[t] = -1e30f;
        total[t] = set(0.0f);
        for (size_t g = 0; g < groups; g++) y[t][g] = set(0.0f);
    }
    for (size_t first = 0; first < length; first += kChunk) {
        const size_t n = length - first < kChunk ? length - first : kChunk;
        const size_t spans = (n + kSpan - 1) / kSpan;
        // Of each span and query: the greatest score, and 2^ that less the greatest of all so far.
        alignas(64) float best[kSpans][T], factors[(kSpans * T + 15) / 16 * 16] = {};
        alignas(64) float shrinks[16] = {};
        for (size_t span = 0; span < spans; span++) {
            const size_t at = span * kSpan, rest = n - at < kSpan ? n - at : kSpan;
            with_constant(heads, [&]<int Heads>() {
                score8<Heads>(cache, first + at, rest, q, sums, head_dim, scores[span], best[span]);
            });
        }
        for (int t = 0; t < heads; t++) {
            float now = most[t];
            for (size_t span = 0; span < spans; span++)
                now = scales[t] * best[span][t] > now ? scales[t] * best[span][t] : now;
            for (size_t span = 0; span < spans; span++)
                factors[span * T + t] = scales[t] * best[span][t] - now;
            shrinks[t] = most[t] - now;
            most[t] = now;
        }
        for (size_t i = 0; i < kSpans * T; i += 16)
            store(factors + i, exp2_roughly(load(factors + i)));
        store(shrinks, exp2_roughly(load(shrinks)));
        for (int t = 0; t < heads; t++) {
            total[t] = mul(total[t], set(shrinks[t]));
            for (size_t g = 0; g < groups; g++) y[t][g] = mul(y[t][g], set(shrinks[t]));
        }
        for (size_t span = 0; span < spans; span++) {
            const float *from = cache.value_scales + first + span * kSpan;
            const float *key_scales = cache.key_scales + first + span * kSpan;
            const size_t to = n - span * kSpan < kSpan ? n - span * kSpan : kSpan;
            F largest = load(from), wrong = set(0.0f);
            for (size_t i = 16; i < to; i += 16) largest = max(load(from + i), largest);
            // Neither `max` nor 8 bits keep a NaN: `wrong` does, and is 0 where there is none.
            for (size_t i = 0; i < to; i += 16)
                wrong = fma(add(load(from + i), load(key_scales + i)), set(0.0f), wrong);
            const float unit = top(largest) * (3.0f / 127.0f) + sum(wrong);
            const F inverse = set(unit > 0 ? 1.0f / unit : 0.0f);
            for (size_t i = 0; i < to; i += 16)
                store(value_scales + i, mul(load(from + i), inverse));
            for (int t = 0; t < heads; t++) {
                float &factor = factors[span * T + t];
                const F sum = weigh_span(scores[span][t], value_scales, to, scales[t],
                                         best[span][t], p[span][t]);
                total[t] = fma(sum, set(factor), total[t]);
                factor *= unit;
            }
        }
        for (size_t span = 0; span < spans; span++) {
            const int8_t *v = cache.values + (first + span * kSpan) * head_dim;
            const size_t rest = n - span * kSpan, quads = (rest < kSpan ? rest + 3 : kSpan) / 4;
            with_constant(heads, [&]<int Heads>() {
                size_t g = 0;
                for (; g + 2 <= groups; g += 2)
                    gather8<2, Heads>(v, quads, head_dim, p[span], factors + span * T, g, y);
                for (; g < groups; g++)
                    gather8<1, Heads>(v, quads, head_dim, p[span], factors + span * T, g, y);
            });
        }
    }
    for (int t = 0; t < heads; t++) {
        const F r = set(1.0f / sum(total[t]));
        for (size_t g = 0; g < groups; g++) store(out + t * head_dim + g * 16, mul(y[t][g], r));
    }
}

void attend8(const float *queries, const Cache8 &cache, size_t heads, size_t head_dim,
             size_t length, float scale, float *out) {
    for (size_t h = 0; h < heads; h += kHeadTile) {
        const float *from = queries + h * head_dim;
        const int now = int(heads - h < kHeadTile ? heads - h : kHeadTile);
        if (head_dim == 32)  // the usual size as a constant: its loops are unrolled
            attend8_tile<32>(from, cache, now, head_dim, length, scale, out + h * head_dim);
        else
            attend8_tile<0>(from, cache, now, head_dim, length, scale, out + h * head_dim);
    }
}
