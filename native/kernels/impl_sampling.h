// Weights of tokens, their selection and a draw; included by impl.h.
//
// Every instruction set computes the same bits here: no fused multiply-adds (the kernels are
// compiled with -ffp-contract=off), and sums whose order is that of 16 lanes.

constexpr float kLowest = -88.0f;  // e^-88 rounds to 2^-127, whose exponent's bits are those of 0

constexpr size_t kTogether = TILE;  // vectors of exponentials that the registers hold

// x = e^x for kLowest <= x <= 0. Without branches or tables. A step waits for the one before, so
// `kTogether` vectors take each step together.
inline void exp_negative(F (&x)[kTogether]) {
    const F rounder = set(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
    F power[kTogether], p[kTogether];
    for (size_t v = 0; v < kTogether; v++) p[v] = add(mul(x[v], set(1.44269504f)), rounder);
    for (size_t v = 0; v < kTogether; v++) power[v] = power_of_two(p[v]);
    for (size_t v = 0; v < kTogether; v++) p[v] = sub(p[v], rounder);
    // e^x = 2^p * e^rest
    for (size_t v = 0; v < kTogether; v++) x[v] = sub(x[v], mul(p[v], set(0.693359375f)));
    for (size_t v = 0; v < kTogether; v++) x[v] = sub(x[v], mul(p[v], set(-2.12194440e-4f)));
    for (size_t v = 0; v < kTogether; v++) p[v] = set(1.0f / 720);  // Taylor's series
    for (const float term : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        for (size_t v = 0; v < kTogether; v++) p[v] = add(mul(p[v], x[v]), set(term));
    for (size_t v = 0; v < kTogether; v++) x[v] = mul(p[v], power[v]);
}

double exponentials(const float *x, size_t n, float max_of_x, float temperature, float *weights) {
    constexpr size_t kFloatSums = 128;  // few enough additions in float to stay exact
    static_assert(kFloatSums % (16 * kTogether) == 0, "or sums would differ between the sets");
    const F most = set(max_of_x), by = set(1.0f / temperature), low = set(kLowest);
    alignas(64) float end[16 * kTogether];
    D total = to_double(set(0.0f));
    for (size_t i = 0; i < n;) {
        F part = set(0.0f);
        for (const size_t block = i + kFloatSums; i < block && i < n; i += 16 * kTogether) {
            const float *from = x + i;
            if (n - i < 16 * kTogether) {
                for (size_t l = 0; l < 16 * kTogether; l++)
                    end[l] = l < n - i ? from[l] : -__builtin_inff();
                from = end;
            }
            F v[kTogether];
            for (size_t u = 0; u < kTogether; u++)
                v[u] = max(mul(sub(load(from + 16 * u), most), by), low);
            exp_negative(v);
            for (size_t u = 0; u < kTogether; u++) {
                if (i + 16 * u < n) store(weights + i + 16 * u, v[u]);
                part = add(part, v[u]);
            }
        }
        total = add(total, to_double(part));
    }
    return sum(total);
}

double mass_from(const float *weights, size_t n, float least, size_t *count) {
    D total = to_double(set(0.0f));
    size_t found = 0;
    for (size_t i = 0; i < n; i += 16) {
        const F v = load(weights + i);
        found += size_t(__builtin_popcount(lanes_from(v, set(least))));
        total = add(total, to_double(zero_below(v, set(least))));
    }
    *count = found;
    return sum(total);
}

size_t select(const float *weights, const uint32_t *ids, size_t n, float least, float below,
              float *chosen, uint32_t *chosen_ids) {
    size_t found = 0;
    for (size_t i = 0; i < n; i += 16) {
        const F v = load(weights + i);
        const uint32_t lanes = lanes_from(v, set(least)) & ~lanes_from(v, set(below));
        if (!lanes) continue;  // most often, where few are chosen
        pack_lanes(lanes, v, load_ids(ids + i), chosen + found, chosen_ids + found);
        found += size_t(__builtin_popcount(lanes));
    }
    for (size_t i = found; i % 16; i++) chosen[i] = 0;
    return found;
}

size_t maxima(const float *weights, size_t n, size_t group, float *greatest) {
    size_t found = 0;
    for (size_t i = 0; i < n; i += 16 * group, found += 16) {
        F best = load(weights + i);
        for (size_t j = i + 16; j < i + 16 * group && j < n; j += 16)
            best = max(load(weights + j), best);
        store(greatest + found, best);
    }
    return found;
}

size_t draw(const float *weights, size_t n, double left) {
    size_t i = 0;
    for (; i < n; i += 16) {
        const double part = sum(to_double(load(weights + i)));
        if (left < part) break;
        left -= part;
    }
    for (; i < n; i++)
        if ((left -= weights[i]) < 0) return i;
    while (n > 1 && weights[n - 1] == 0) n--;  // by rounding
    return n - 1;
}
