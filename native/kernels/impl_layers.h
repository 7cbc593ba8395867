// Norms, gates, convolution, state space, rotation, search and routing; included by impl.h.

// exp to about 1e-7 relative: 2^k times a polynomial (Cephes). NaN gives the lower end.
inline F exp(F x) {
    x = min(max(x, set(-87.0f)), set(88.0f));
    const F k = round(mul(x, set(1.44269504f)));
    const F r = fma(k, set(2.12194440e-4f), fma(k, set(-0.693359375f), x));
    F p = set(1.9875691500e-4f);
    p = fma(p, r, set(1.3981999507e-3f));
    p = fma(p, r, set(8.3334519073e-3f));
    p = fma(p, r, set(4.1665795894e-2f));
    p = fma(p, r, set(1.6666665459e-1f));
    p = fma(p, r, set(5.0000001201e-1f));
    p = fma(p, mul(r, r), add(r, set(1.0f)));
    return scale2(p, k);
}

inline F silu(F x) { return div(x, add(set(1.0f), exp(sub(set(0.0f), x)))); }

// log(1 + exp(x)): max(x, 0) + 2 atanh(y / (2 + y)) with y = exp(-|x|), s <= 1/3.
inline F softplus(F x) {
    const F zero = set(0.0f), y = exp(min(x, sub(zero, x)));
    const F s = div(y, add(set(2.0f), y)), s2 = mul(s, s);
    F p = set(2.0f / 15);
    p = fma(p, s2, set(2.0f / 13));
    p = fma(p, s2, set(2.0f / 11));
    p = fma(p, s2, set(2.0f / 9));
    p = fma(p, s2, set(2.0f / 7));
    p = fma(p, s2, set(2.0f / 5));
    p = fma(p, s2, set(2.0f / 3));
    p = fma(p, s2, set(2.0f));
    return fma(p, s, max(x, zero));
}

// Integers of n numbers (a multiple of 16) with one scale, which is returned; `total` gets their
// sum. The largest is found by its bits: where a number is NaN or infinite, so is the scale, and
// the results show it.
inline float quantize_group(const float *x, size_t n, int8_t *q, int32_t *total) {
    I largest = set_int(0);
    for (size_t i = 0; i < n; i += 16) largest = max_int(largest, magnitude(load(x + i)));
    const float scale = __builtin_bit_cast(float, top_int(largest)) / 127.0f;
    const F inverse = set(scale > 0 ? 1.0f / scale : 0.0f);
    I sums = set_int(0);
    for (size_t i = 0; i < n; i += 16) {
        const F v = min(max(mul(load(x + i), inverse), set(-127.0f)), set(127.0f));
        const I k = to_int(v);
        store_bytes(q + i, k);
        sums = add_int(sums, k);
    }
    *total = sum_int(sums);
    return scale;
}

// As `quantize_group` for every 32; the divisions of 16 blocks are done together.
void quantize(const float *x, size_t n, int8_t *q, float *scales, int32_t *sums) {
    const size_t blocks = n / kBlock;
    for (size_t first = 0; first < blocks; first += 16) {
        const size_t count = blocks - first < 16 ? blocks - first : 16;
        alignas(64) int32_t largest[16] = {};
        alignas(64) float inverse[16];
        for (size_t b = 0; b < count; b++) {
            const float *at = x + (first + b) * kBlock;
            largest[b] = top_int(max_int(magnitude(load(at)), magnitude(load(at + 16))));
        }
        float numbers[16];
        __builtin_memcpy(numbers, largest, sizeof numbers);
        const F scale = div(load(numbers), set(127.0f));
        // A block of zeros divides by the least normal number instead.
        store(inverse, div(set(1.0f), max(scale, set(1.17549435e-38f))));
        alignas(64) float rounded[16];
        store(rounded, scale);
        for (size_t b = 0; b < count; b++) {
            const float *at = x + (first + b) * kBlock;
            scales[first + b] = rounded[b];
            const F by = set(inverse[b]), low = set(-127.0f), high = set(127.0f);
            const I k0 = to_int(min(max(mul(load(at), by), low), high));
            const I k1 = to_int(min(max(mul(load(at + 16), by), low), high));
            store_bytes(q + (first + b) * kBlock, k0);
            store_bytes(q + (first + b) * kBlock + 16, k1);
            sums[first + b] = sum_int(add_int(k0, k1));
        }
    }
}

// y = x * r * weight with r = 1 / rms(x), given the sum of squares.
inline void normalize(const float *x, float squares, const float *weight, float eps, size_t n,
                      float *y) {
    const F r = set(1.0f / __builtin_sqrtf(squares / float(n) + eps));
    for (size_t i = 0; i < n; i += 16) store(y + i, mul(mul(load(x + i), r), load(weight + i)));
}

void add_norm(float *__restrict x, const float *__restrict added, float scale,
              const float *__restrict weight, float eps, size_t n, float *__restrict y) {
    F even = set(0.0f), odd = set(0.0f);
    for (size_t i = 0; i < n; i += 32) {  // n is a multiple of 32
        F a = load(x + i), b = load(x + i + 16);
        if (added) {
            a = fma(set(scale), load(added + i), a);
            b = fma(set(scale), load(added + i + 16), b);
            store(x + i, a);
            store(x + i + 16, b);
        }
        even = fma(a, a, even);
        odd = fma(b, b, odd);
    }
    normalize(x, sum(add(even, odd)), weight, eps, n, y);
}

void gated_silu(const float *__restrict gate, const float *__restrict up, size_t n,
                float *__restrict y) {
    for (size_t i = 0; i < n; i += 16) store(y + i, mul(silu(load(gate + i)), load(up + i)));
}

void axpy(float scale, const float *__restrict x, size_t n, float *__restrict y) {
    for (size_t i = 0; i < n; i += 16) store(y + i, fma(set(scale), load(x + i), load(y + i)));
}

void convolve(const float *const *window, const float *__restrict weight,
              const float *__restrict bias, size_t taps, size_t n, float *__restrict out) {
    for (size_t i = 0; i < n; i += 16) {
        F v = load(bias + i);
        for (size_t k = 0; k < taps; k++) v = fma(load(window[k] + i), load(weight + k * n + i), v);
        store(out + i, silu(v));
    }
}

// One step of 16 V channels of a head, which have d_state numbers each. B and C are the same for all
// channels: several vectors share what is read of them.
template <int V>
inline void ssm_channels(const float *u, const float *B, const float *C, float step, float decay,
                         float d, size_t head_dim, size_t d_state, float *state, float *y) {
    const F keep = set(decay);
    F in[V], even[V], odd[V];
    for (int v = 0; v < V; v++) {
        const F x = load(u + 16 * v);
        in[v] = mul(x, set(step));
        even[v] = mul(x, set(d));
        odd[v] = set(0.0f);
    }
    const auto next = [&](float b, float c, F *sums) {
        for (int v = 0; v < V; v++) {
            const F s = fma(load(state + 16 * v), keep, mul(in[v], set(b)));
            store(state + 16 * v, s);
            sums[v] = fma(s, set(c), sums[v]);
        }
        state += head_dim;
    };
    size_t n = 0;
    for (; n + 2 <= d_state; n += 2) {
        next(B[n], C[n], even);
        next(B[n + 1], C[n + 1], odd);
    }
    if (n < d_state) next(B[n], C[n], even);
    for (int v = 0; v < V; v++) store(y + 16 * v, add(even[v], odd[v]));
}

void ssm_step(const float *__restrict z, const float *__restrict u, const float *__restrict B,
              const float *__restrict C, const float *__restrict dt,
              const float *__restrict dt_bias, const float *__restrict a,
              const float *__restrict d, const float *__restrict weight, float eps, size_t heads,
              size_t head_dim, size_t d_state, float *__restrict state, float *__restrict y) {
    for (size_t first = 0; first < heads; first += 16) {
        alignas(64) float step[16], decay[16];
        const F s = softplus(add(load(dt + first), load(dt_bias + first)));
        store(step, s);
        store(decay, exp(mul(s, load(a + first))));
        for (size_t h = first; h < heads && h < first + 16; h++) {
            const auto channels = [&](auto compute, size_t p) {
                compute(u + h * head_dim + p, B, C, step[h - first], decay[h - first], d[h],
                        head_dim, d_state, state + h * d_state * head_dim + p,
                        y + h * head_dim + p);
            };
            size_t p = 0;
            for (; p + 32 <= head_dim; p += 32) channels(ssm_channels<2>, p);
            if (p < head_dim) channels(ssm_channels<1>, p);
        }
    }
    const size_t width = heads * head_dim;
    F squares = set(0.0f);
    for (size_t i = 0; i < width; i += 16) {
        const F v = mul(load(y + i), silu(load(z + i)));
        store(y + i, v);
        squares = fma(v, v, squares);
    }
    normalize(y, sum(squares), weight, eps, width, y);
}

void rotate(float *x, const float *cosines, const float *sines, size_t n) {
    for (size_t i = 0; i < n / 2; i++) {
        const float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cosines[i] - b * sines[i];
        x[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
}

float maximum(const float *x, size_t n, bool *has_nan) {
    F best[2] = {set(-__builtin_inff()), set(-__builtin_inff())};
    I bits = set_int(0);
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        const F a = load(x + i), b = load(x + i + 16);
        best[0] = max(a, best[0]);
        best[1] = max(b, best[1]);
        bits = max_int(bits, max_int(magnitude(a), magnitude(b)));
    }
    float greatest = top(max(best[0], best[1]));
    int32_t magnitudes = top_int(bits);
    for (; i < n; i++) {
        const int32_t m = __builtin_bit_cast(int32_t, x[i]) & INT32_MAX;
        magnitudes = m > magnitudes ? m : magnitudes;
        greatest = x[i] > greatest ? x[i] : greatest;
    }
    *has_nan = magnitudes > 0x7f800000;
    return greatest;
}

size_t find(const float *x, size_t n, float value) {
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        if (const uint32_t lane = lane_of(load(x + i), set(value)); lane < 16) return i + lane;
    while (i < n && x[i] != value) i++;
    return i;
}

void route(float *logits, size_t n, size_t k, uint32_t *chosen, float *weights) {
    const size_t end = (n + 15) / 16 * 16;
    const float gone = __builtin_nanf("");  // never a maximum, never equal to a number
    for (size_t i = n; i < end; i++) logits[i] = gone;
    float greatest = 0;
    for (size_t j = 0; j < k; j++) {
        F best = set(-__builtin_inff());
        for (size_t i = 0; i < end; i += 16) best = max(load(logits + i), best);
        const float value = top(best);
        size_t at = find(logits, end, value);
        if (at == end) {  // only NaN is left
            at = 0;
            for (size_t i = 0; i < j; i++)
                if (chosen[i] == at) at++;
        }
        if (j == 0) greatest = value;
        logits[at] = gone;
        size_t place = j;  // chosen stays sorted
        for (; place && chosen[place - 1] > at; place--) {
            chosen[place] = chosen[place - 1];
            weights[place] = weights[place - 1];
        }
        chosen[place] = uint32_t(at);
        weights[place] = value;
    }
    float total = 0;
    for (size_t i = 0; i < k; i += 16) {
        alignas(64) float part[16];
        for (size_t l = 0; l < 16; l++) part[l] = i + l < k ? weights[i + l] : greatest;
        store(part, exp(sub(load(part), set(greatest))));
        for (size_t l = 0; l < 16 && i + l < k; l++) total += weights[i + l] = part[l];
    }
    for (size_t j = 0; j < k; j++) weights[j] /= total;
}

float log_sum_exp(const float *x, size_t n) {
    float most = x[0];
    size_t i = 0;
    F best = set(most);
    for (; i + 16 <= n; i += 16) best = max(load(x + i), best);
    most = top(best);
    for (size_t j = i; j < n; j++) most = x[j] > most ? x[j] : most;
    F sums = set(0.0f);
    for (i = 0; i + 16 <= n; i += 16) sums = add(sums, exp(sub(load(x + i), set(most))));
    double total = sum(sums);
    for (; i < n; i++) total += __builtin_expf(x[i] - most);
    return most + float(__builtin_log(total));
}
