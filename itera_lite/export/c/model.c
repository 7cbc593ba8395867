/* Itera-Lite model in C99: one file with the weights, the tokenizer and what it takes to write text.

   No memory is allocated and nothing is read from elsewhere: constants can stay in flash, all else
   lies in the variable `m`, so there is one text at a time. Of the C library it needs memcpy,
   memset, memcmp and mathematics.

   The arithmetic is that of Itera-Lite's portable engine, addition by addition, so the most probable
   tokens are the same. Compile with -std=c99 (or -ffp-contract=off), and without -ffast-math:
   a fused multiply-add rounds otherwise.

   With ITERA_MAIN defined this is a program. With ITERA_HEADER defined before an #include it is
   only the declarations:

       static int32_t ids[64];
       itera_init();
       itera_read(ids, itera_encode("Once upon a time", 16, ids, 64));
       for (int32_t id; (id = itera_next()) >= 0;) {
           int32_t length;
           const char *bytes = itera_bytes(id, &length);
           uart_write(bytes, length);
       }
*/
#ifndef ITERA_DECLARATIONS
#define ITERA_DECLARATIONS

#include <stddef.h>
#include <stdint.h>

#define ITERA_END (-1)   /* the model ended the text */
#define ITERA_FULL (-2)  /* no room is left: in the context, or for the ids */
#define ITERA_WRONG (-3) /* no such token, or nothing to go on from */

/* Begins a new text, with the sampling that the model's file advises and seed 0. To be called
   first. */
void itera_init(void);
/* A temperature of 0 takes the most probable token; top_p, above 0 and at most 1, leaves out the
   improbable ones that together make up the rest. */
void itera_sampling(float temperature, float top_p, uint64_t seed);
/* Cuts text into token ids and returns their number, or ITERA_FULL. Room for as many ids as the
   text has bytes is always enough. */
int32_t itera_encode(const char *text, size_t bytes, int32_t *ids, int32_t room);
/* Reads tokens; returns 0, ITERA_FULL or ITERA_WRONG. */
int32_t itera_read(const int32_t *ids, int32_t count);
/* Chooses the next token of the text: its id, or ITERA_END, ITERA_FULL or ITERA_WRONG. */
int32_t itera_next(void);
/* The bytes of a token; a character may be spread over several tokens. Length 0 for a token that
   is no text. */
const char *itera_bytes(int32_t id, int32_t *length);
/* The logits of the next token, valid until the next call; NULL where itera_next would fail. */
const float *itera_logits(void);

#endif
#ifndef ITERA_HEADER

#include <float.h>
#include <math.h>
#include <string.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif
#if FLT_EVAL_METHOD != 0
#error "floats must be computed as floats (on 32-bit x86: -msse2 -mfpmath=sse)"
#endif

enum { F32, Q8_0, Q4_0 };

/* Row by row. Q8_0 and Q4_0 have a scale (16 bits, low byte first) and 32 weights a block. */
typedef struct {
    int32_t rows, columns, type;
    const void *weights;
} Matrix;

/* What a layer doesn't have is 0. */
typedef struct {
    int32_t kv_heads; /* 0: a Mamba-2 layer */
    int32_t place;    /* of its state, among those of the layers of its kind */
    const float *mixer_norm, *ffn_norm;
    Matrix q, k, v, o;
    const float *q_bias, *k_bias, *v_bias, *o_bias;
    Matrix in, out;
    const float *conv, *conv_bias, *dt_bias, *a, *d, *ssm_norm;
    Matrix router, expert_gates, expert_ups, expert_downs;
    Matrix gate, up, down; /* dense, or of the shared expert */
    const float *gate_bias, *up_bias, *down_bias;
} Layer;

#include "tables.h"

/* ---- memory ---- */

#define BLOCK 32  /* columns that share a scale */
#define LANES 16  /* sums that the engine's vectors keep apart; the order decides the last bit */
#define SPAN 128  /* positions whose weights share a scale, in attention */
#define CHUNK 512 /* positions whose scores are computed before the first is weighed */
#define CHANNELS (ITERA_INNER + 2 * ITERA_STATE)
#define BEFORE (ITERA_TAPS - 1) /* earlier inputs that the convolution looks at */

static struct {
    uint64_t random[2];
    float temperature, top_p;
    int32_t position; /* tokens read */
    int32_t pending;  /* a token that was chosen and isn't read yet, or -1 */
    float stream[ITERA_WIDTH], normed[ITERA_WIDTH], added[ITERA_WIDTH];
    float wide[ITERA_WIDE], mixed[ITERA_MIXED];
    float hidden[2 * ITERA_HIDDEN];
    float logits[ITERA_VOCABULARY];
#if ITERA_EXPERTS
    float router[ITERA_EXPERTS], shares[ITERA_CHOSEN];
    int32_t chosen[ITERA_CHOSEN];
#endif
#if ITERA_MAMBA_LAYERS
    float conv[CHANNELS];
    float window[ITERA_MAMBA_LAYERS][BEFORE][CHANNELS];
    float ssm[ITERA_MAMBA_LAYERS][ITERA_INNER][ITERA_STATE];
#endif
#if ITERA_CACHES
    float queries[ITERA_HEADS * ITERA_HEAD];
    float keys_now[ITERA_KV_HEADS * ITERA_HEAD], values_now[ITERA_KV_HEADS * ITERA_HEAD];
    float scores[ITERA_SCORES];
#if ITERA_ROTARY
    float cosines[ITERA_ROTARY / 2], sines[ITERA_ROTARY / 2];
#endif
#if ITERA_CACHE8
    float key_scales[ITERA_CACHES][ITERA_CONTEXT], value_scales[ITERA_CACHES][ITERA_CONTEXT];
    int32_t gathered[ITERA_HEAD];
    int8_t keys[ITERA_CACHES][ITERA_CONTEXT][ITERA_HEAD];
    int8_t values[ITERA_CACHES][ITERA_CONTEXT][ITERA_HEAD];
    int8_t query[ITERA_HEAD], weights[SPAN];
#else
    float keys[ITERA_CACHES][ITERA_CONTEXT][ITERA_HEAD];
    float values[ITERA_CACHES][ITERA_CONTEXT][ITERA_HEAD];
#endif
#endif
#if ITERA_QUANTIZED
    float scales[ITERA_WIDEST / BLOCK]; /* of the input of a product; and 8 times its sums */
    int32_t sums8[ITERA_WIDEST / BLOCK];
    int8_t bytes[ITERA_WIDEST];
#endif
} m;

/* ---- numbers ---- */

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The nearest integer, even where two are as near; of at most 2^22. */
static float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }

/* a * 2^k, for k from -126 to 127. */
static float scaled(float a, float k) { return a * from_bits((uint32_t)((int32_t)k + 127) << 23); }

static float sum_of(const float *lanes)
{
    float total = 0;
    for (int32_t i = 0; i < LANES; i++) total += lanes[i];
    return total;
}

/* e^x to about 1e-7 relative: 2^k times a polynomial (Cephes). */
static float exponential(float x)
{
    x = x > -87.0f ? x : -87.0f;
    x = x < 88.0f ? x : 88.0f;
    const float k = nearest(x * 1.44269504f);
    const float r = (x + k * -0.693359375f) + k * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = 1.3981999507e-3f + p * r;
    p = 8.3334519073e-3f + p * r;
    p = 4.1665795894e-2f + p * r;
    p = 1.6666665459e-1f + p * r;
    p = 5.0000001201e-1f + p * r;
    return scaled((r + 1.0f) + p * (r * r), k);
}

static float silu(float x) { return x / (1.0f + exponential(0.0f - x)); }

#if ITERA_FF || ITERA_CACHES
static void add_bias(const float *bias, int32_t n, float *x)
{
    if (bias)
        for (int32_t i = 0; i < n; i++) x[i] += bias[i];
}
#endif

/* ---- products ---- */

#if ITERA_QUANTIZED
static float half(const uint8_t *p)
{
    const uint32_t bits = p[0] | (uint32_t)p[1] << 8;
    const uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float x = exponent ? from_bits((exponent + 112) << 23 | fraction << 13)
                             : (float)fraction * 0x1p-24f;
    return bits & 0x8000 ? -x : x;
}

/* x to integers of 8 bits; returns their scale. */
static float to_bytes(const float *x, int32_t n, int8_t *q)
{
    float largest = 0;
    for (int32_t i = 0; i < n; i++) {
        const float size = fabsf(x[i]);
        if (size > largest) largest = size;
    }
    const float scale = largest / 127.0f;
    const float inverse = 1.0f / (scale > FLT_MIN ? scale : FLT_MIN);
    for (int32_t i = 0; i < n; i++) {
        float v = x[i] * inverse;
        v = v > -127.0f ? v : -127.0f;
        v = v < 127.0f ? v : 127.0f;
        q[i] = (int8_t)nearest(v);
    }
    return scale;
}
#endif

#if ITERA_HAS_Q8_0
static int32_t dot_q8_0(const uint8_t *w, const int8_t *q)
{
    const int8_t *v = (const int8_t *)w;
    int32_t sum = 0;
    for (int32_t i = 0; i < BLOCK; i++) sum += v[i] * q[i];
    return sum;
}
#endif

#if ITERA_HAS_Q4_0
/* Of weights from 0 to 15: 8 times the sum of q is to be taken off. */
static int32_t dot_q4_0(const uint8_t *w, const int8_t *q)
{
    int32_t sum = 0;
    for (int32_t i = 0; i < BLOCK / 2; i++)
        sum += (w[i] & 15) * q[i] + (w[i] >> 4) * q[BLOCK / 2 + i];
    return sum;
}
#endif

/* y = rows [first, first + rows) of the matrix times x. */
static void multiply_rows(const Matrix *w, int32_t first, int32_t rows, const float *x, float *y)
{
    const int32_t columns = w->columns;
#if ITERA_QUANTIZED
    if (w->type != F32) {
        const int32_t blocks = columns / BLOCK;
        for (int32_t b = 0; b < blocks; b++) {
            const int8_t *q = m.bytes + b * BLOCK;
            int32_t sum = 0;
            m.scales[b] = to_bytes(x + b * BLOCK, BLOCK, m.bytes + b * BLOCK);
            for (int32_t i = 0; i < BLOCK; i++) sum += q[i];
            m.sums8[b] = 8 * sum;
        }
        const size_t size = w->type == Q8_0 ? 2 + BLOCK : 2 + BLOCK / 2;
        const uint8_t *at = (const uint8_t *)w->weights + (size_t)first * (size_t)blocks * size;
        for (int32_t r = 0; r < rows; r++) {
            float sum = 0;
            for (int32_t b = 0; b < blocks; b++, at += size) {
                const int8_t *q = m.bytes + b * BLOCK;
#if ITERA_HAS_Q8_0 && ITERA_HAS_Q4_0
                const int32_t dot =
                    w->type == Q8_0 ? dot_q8_0(at + 2, q) : dot_q4_0(at + 2, q) - m.sums8[b];
#elif ITERA_HAS_Q8_0
                const int32_t dot = dot_q8_0(at + 2, q);
#else
                const int32_t dot = dot_q4_0(at + 2, q) - m.sums8[b];
#endif
                sum = sum + (float)dot * (half(at) * m.scales[b]);
            }
            y[r] = sum;
        }
        return;
    }
#endif
#if ITERA_HAS_F32
    const float *at = (const float *)w->weights + (size_t)first * (size_t)columns;
    for (int32_t r = 0; r < rows; r++, at += columns) {
        float even = 0, odd = 0;
        int32_t c = 0;
        for (; c + 2 <= columns; c += 2) {
            even = even + at[c] * x[c];
            odd = odd + at[c + 1] * x[c + 1];
        }
        if (c < columns) even = even + at[c] * x[c];
        y[r] = even + odd;
    }
#endif
}

static void multiply(const Matrix *w, const float *x, float *y)
{
    multiply_rows(w, 0, w->rows, x, y);
}

static void embed(int32_t token)
{
    const Matrix *w = &embedding;
#if ITERA_QUANTIZED
    if (w->type != F32) {
        const int32_t blocks = ITERA_WIDTH / BLOCK;
        const size_t size = w->type == Q8_0 ? 2 + BLOCK : 2 + BLOCK / 2;
        const uint8_t *at = (const uint8_t *)w->weights + (size_t)token * (size_t)blocks * size;
        for (int32_t b = 0; b < blocks; b++, at += size) {
            const float scale = half(at);
            for (int32_t i = 0; i < BLOCK; i++) {
                int32_t q;
                if (w->type == Q8_0)
                    q = ((const int8_t *)at)[2 + i];
                else
                    q = (i < BLOCK / 2 ? at[2 + i] & 15 : at[2 + i - BLOCK / 2] >> 4) - 8;
                m.stream[b * BLOCK + i] = scale * (float)q;
            }
        }
    }
#endif
#if ITERA_HAS_F32
    if (w->type == F32)
        memcpy(m.stream, (const float *)w->weights + (size_t)token * ITERA_WIDTH, sizeof m.stream);
#endif
    if (ITERA_EMBEDDING_SCALE != 1.0f)
        for (int32_t i = 0; i < ITERA_WIDTH; i++) m.stream[i] *= ITERA_EMBEDDING_SCALE;
}

/* ---- layers ---- */

/* y = x / rms(x) * weight, from the sum of squares. */
static void normalize(const float *x, float squares, const float *weight, int32_t n, float *y)
{
    const float r = 1.0f / sqrtf(squares / (float)n + ITERA_EPSILON);
    for (int32_t i = 0; i < n; i++) y[i] = x[i] * r * weight[i];
}

/* Adds what the last half of a layer computed to the stream, and normalizes that. */
static void add_norm(const float *weight)
{
    float even[LANES] = {0}, odd[LANES] = {0};
    for (int32_t i = 0; i < ITERA_WIDTH; i++) {
        const float x = m.stream[i] + ITERA_RESIDUAL_SCALE * m.added[i];
        float *sums = i & LANES ? odd : even;
        m.stream[i] = x;
        sums[i % LANES] = sums[i % LANES] + x * x;
    }
    for (int32_t i = 0; i < LANES; i++) even[i] += odd[i];
    normalize(m.stream, sum_of(even), weight, ITERA_WIDTH, m.normed);
}

#if ITERA_MAMBA_LAYERS
/* log(1 + e^x): max(x, 0) + 2 atanh(y / (2 + y)) with y = e^-|x|. */
static float softplus(float x)
{
    const float y = exponential(x < 0.0f - x ? x : 0.0f - x);
    const float s = y / (2.0f + y), s2 = s * s;
    float p = 2.0f / 15;
    p = 2.0f / 13 + p * s2;
    p = 2.0f / 11 + p * s2;
    p = 2.0f / 9 + p * s2;
    p = 2.0f / 7 + p * s2;
    p = 2.0f / 5 + p * s2;
    p = 2.0f / 3 + p * s2;
    p = 2.0f + p * s2;
    return (x > 0 ? x : 0.0f) + p * s;
}

static void mamba(const Layer *layer)
{
    const int32_t head = ITERA_INNER / ITERA_SSM_HEADS;
    const float *z = m.wide, *xbc = m.wide + ITERA_INNER, *dt = xbc + CHANNELS;
    const float *B = m.conv + ITERA_INNER, *C = B + ITERA_STATE;
    float (*window)[CHANNELS] = m.window[layer->place];
    float squares[LANES] = {0}, step = 0, decay = 0;

    multiply(&layer->in, m.normed, m.wide);
    for (int32_t c = 0; c < CHANNELS; c++) {
        const float *taps = layer->conv + c * ITERA_TAPS;
        float v = layer->conv_bias[c];
        for (int32_t k = 0; k < BEFORE; k++)
            v = v + window[(m.position + k) % BEFORE][c] * taps[k];
        m.conv[c] = silu(v + xbc[c] * taps[BEFORE]);
    }
    memcpy(window[m.position % BEFORE], xbc, sizeof window[0]);
    for (int32_t i = 0; i < ITERA_INNER; i++) {
        const int32_t h = i / head;
        float *state = m.ssm[layer->place][i];
        if (i % head == 0) { /* they are those of a head */
            step = softplus(dt[h] + layer->dt_bias[h]);
            decay = exponential(step * layer->a[h]);
        }
        const float in = m.conv[i] * step;
        float sums[2] = {m.conv[i] * layer->d[h], 0}; /* of even and odd places */
        for (int32_t n = 0; n < ITERA_STATE; n++) state[n] = in * B[n] + state[n] * decay;
        for (int32_t n = 0; n < ITERA_STATE; n += 2) sums[0] = sums[0] + state[n] * C[n];
        for (int32_t n = 1; n < ITERA_STATE; n += 2) sums[1] = sums[1] + state[n] * C[n];
        const float v = (sums[0] + sums[1]) * silu(z[i]);
        m.mixed[i] = v;
        squares[i % LANES] = squares[i % LANES] + v * v;
    }
    normalize(m.mixed, sum_of(squares), layer->ssm_norm, ITERA_INNER, m.mixed);
    multiply(&layer->out, m.mixed, m.added);
}
#endif

#if ITERA_CACHES
#if ITERA_ROTARY
static void rotate(float *x, int32_t heads)
{
    for (int32_t h = 0; h < heads; h++, x += ITERA_HEAD)
        for (int32_t i = 0; i < ITERA_ROTARY / 2; i++) {
            const float a = x[2 * i], b = x[2 * i + 1];
            x[2 * i] = a * m.cosines[i] - b * m.sines[i];
            x[2 * i + 1] = a * m.sines[i] + b * m.cosines[i];
        }
}
#endif

#if ITERA_CACHE8
static void store(int32_t cache, const float *key, const float *value)
{
    const int32_t t = m.position;
    m.key_scales[cache][t] = to_bytes(key, ITERA_HEAD, m.keys[cache][t]);
    m.value_scales[cache][t] = to_bytes(value, ITERA_HEAD, m.values[cache][t]);
}

/* 2^x for x >= -126, to 1e-4: a cubic fitted to [-1/2, 1/2]. */
static float exp2_roughly(float x)
{
    x = x > -126.0f ? x : -126.0f;
    const float k = nearest(x), f = x - k;
    float p = 0.24261112f + 0.05517166f * f;
    p = 0.69326099f + p * f;
    p = 0.99992807f + p * f;
    return scaled(p, k);
}

/* Adds the values of a span to `out`, with weights of 3 * 2^(scale * (score - best)) in 8 bits, and
   to `total` the sums of these. `factor` is what a weight of `best` counts. */
static void weigh_span(int32_t cache, int32_t first, int32_t n, const float *scores, float scale,
                       float best, float factor, float *total, float *out)
{
    const float *value_scales = m.value_scales[cache] + first, by = scale * 8388608.0f;
    const int32_t least = -87 * 8388608;
    float largest = 0, sums[LANES] = {0};
    for (int32_t t = 0; t < n; t++)
        if (value_scales[t] > largest) largest = value_scales[t];
    const float unit = largest * (3.0f / 127.0f), inverse = unit > 0 ? 1.0f / unit : 0.0f;
    for (int32_t t = 0; t < n; t++) {
        /* The bits of 2^x are 2^23 x but for the lower 23: there w = 1 + f stands for 2^f, which is
           (w^2 + 2) / 3 to 4e-3. */
        const float power = (scores[t] - best) * by;
        const uint32_t x = (uint32_t)(power > (float)least ? (int32_t)rintf(power) : least);
        const float w = from_bits((x & 0x7fffff) | 0x3f800000);
        const float e = from_bits(bits_of(2.0f + w * w) + (x & 0xff800000));
        sums[t % LANES] += e;
        m.weights[t] = (int8_t)nearest(e * (value_scales[t] * inverse));
    }
    for (int32_t i = 0; i < LANES; i++) total[i] = total[i] + sums[i] * factor;
    factor *= unit;
    memset(m.gathered, 0, sizeof m.gathered);
    for (int32_t t = 0; t < n; t++)
        for (int32_t i = 0; i < ITERA_HEAD; i++)
            m.gathered[i] += m.values[cache][first + t][i] * m.weights[t];
    for (int32_t i = 0; i < ITERA_HEAD; i++) out[i] = out[i] + (float)m.gathered[i] * factor;
}

/* Attention of one query over keys and values in 8 bits. A running softmax: what was added is
   rescaled when a greater score comes. */
static void attend(const float *query, int32_t cache, float *out)
{
    const int32_t length = m.position + 1;
    float scale = ITERA_ATTENTION_SCALE * 1.44269504f * to_bytes(query, ITERA_HEAD, m.query);
    float most = -1e30f, total[LANES] = {0};
    if (scale < 1e-20f) scale = 1e-20f;
    for (int32_t i = 0; i < ITERA_HEAD; i++) out[i] = 0;
    for (int32_t first = 0; first < length; first += CHUNK) {
        const int32_t n = length - first < CHUNK ? length - first : CHUNK;
        float best[CHUNK / SPAN] = {0}, now = most;
        for (int32_t t = 0; t < n; t++) {
            const int8_t *key = m.keys[cache][first + t];
            int32_t dot = 0;
            for (int32_t i = 0; i < ITERA_HEAD; i++) dot += key[i] * m.query[i];
            m.scores[t] = (float)dot * m.key_scales[cache][first + t];
            if (t % SPAN == 0 || m.scores[t] > best[t / SPAN]) best[t / SPAN] = m.scores[t];
        }
        for (int32_t t = 0; t < n; t += SPAN)
            if (scale * best[t / SPAN] > now) now = scale * best[t / SPAN];
        const float shrink = exp2_roughly(most - now);
        most = now;
        for (int32_t i = 0; i < LANES; i++) total[i] *= shrink;
        for (int32_t i = 0; i < ITERA_HEAD; i++) out[i] *= shrink;
        for (int32_t t = 0; t < n; t += SPAN)
            weigh_span(cache, first + t, n - t < SPAN ? n - t : SPAN, m.scores + t, scale,
                       best[t / SPAN], exp2_roughly(scale * best[t / SPAN] - now), total, out);
    }
    const float r = 1.0f / sum_of(total);
    for (int32_t i = 0; i < ITERA_HEAD; i++) out[i] *= r;
}
#else
static void store(int32_t cache, const float *key, const float *value)
{
    memcpy(m.keys[cache][m.position], key, sizeof m.keys[0][0]);
    memcpy(m.values[cache][m.position], value, sizeof m.values[0][0]);
}

static void attend(const float *query, int32_t cache, float *out)
{
    const int32_t length = m.position + 1;
    float best = 0, total[LANES] = {0};
    for (int32_t t = 0; t < length; t++) {
        float part[LANES] = {0};
        for (int32_t i = 0; i < ITERA_HEAD; i++)
            part[i % LANES] = part[i % LANES] + query[i] * m.keys[cache][t][i];
        m.scores[t] = sum_of(part) * ITERA_ATTENTION_SCALE;
        if (t == 0 || m.scores[t] > best) best = m.scores[t];
    }
    for (int32_t t = 0; t < length; t++) {
        m.scores[t] = exponential(m.scores[t] - best);
        total[t % LANES] += m.scores[t];
    }
    const float r = 1.0f / sum_of(total);
    for (int32_t i = 0; i < ITERA_HEAD; i++) {
        float sums[2] = {0, 0};
        for (int32_t t = 0; t < length; t++)
            sums[t & 1] = sums[t & 1] + m.scores[t] * m.values[cache][t][i];
        out[i] = (sums[0] + sums[1]) * r;
    }
}
#endif

static void attention(const Layer *layer)
{
    const int32_t group = ITERA_HEADS / layer->kv_heads;
    multiply(&layer->q, m.normed, m.queries);
    multiply(&layer->k, m.normed, m.keys_now);
    multiply(&layer->v, m.normed, m.values_now);
    add_bias(layer->q_bias, layer->q.rows, m.queries);
    add_bias(layer->k_bias, layer->k.rows, m.keys_now);
    add_bias(layer->v_bias, layer->v.rows, m.values_now);
#if ITERA_ROTARY
    rotate(m.queries, ITERA_HEADS);
    rotate(m.keys_now, layer->kv_heads);
#endif
    for (int32_t h = 0; h < layer->kv_heads; h++)
        store(layer->place + h, m.keys_now + h * ITERA_HEAD, m.values_now + h * ITERA_HEAD);
    for (int32_t h = 0; h < ITERA_HEADS; h++)
        attend(m.queries + h * ITERA_HEAD, layer->place + h / group, m.mixed + h * ITERA_HEAD);
    multiply(&layer->o, m.mixed, m.added);
    add_bias(layer->o_bias, ITERA_WIDTH, m.added);
}
#endif

#if ITERA_EXPERTS
/* The experts with the greatest logits, in the order of their numbers, and a softmax over them. */
static void route(void)
{
    float greatest = 0, total = 0;
    for (int32_t j = 0; j < ITERA_CHOSEN; j++) {
        int32_t best = -1, place = j;
        for (int32_t e = 0; e < ITERA_EXPERTS; e++) {
            int32_t taken = 0;
            for (int32_t i = 0; i < j; i++) taken |= m.chosen[i] == e;
            if (!taken && (best < 0 || m.router[e] > m.router[best])) best = e;
        }
        if (j == 0) greatest = m.router[best];
        for (; place && m.chosen[place - 1] > best; place--) m.chosen[place] = m.chosen[place - 1];
        m.chosen[place] = best;
    }
    for (int32_t j = 0; j < ITERA_CHOSEN; j++) {
        m.shares[j] = exponential(m.router[m.chosen[j]] - greatest);
        total += m.shares[j];
    }
    for (int32_t j = 0; j < ITERA_CHOSEN; j++) m.shares[j] /= total;
}

static void experts(const Layer *layer)
{
    float *gate = m.hidden, *up = m.hidden + ITERA_EXPERT_WIDTH;
    multiply(&layer->router, m.normed, m.router);
    route();
    for (int32_t j = 0; j < ITERA_CHOSEN; j++) {
        const int32_t e = m.chosen[j], first = e * ITERA_EXPERT_WIDTH;
        multiply_rows(&layer->expert_gates, first, ITERA_EXPERT_WIDTH, m.normed, gate);
        multiply_rows(&layer->expert_ups, first, ITERA_EXPERT_WIDTH, m.normed, up);
        for (int32_t i = 0; i < ITERA_EXPERT_WIDTH; i++) gate[i] = silu(gate[i]) * up[i];
        multiply_rows(&layer->expert_downs, e * ITERA_WIDTH, ITERA_WIDTH, gate, m.wide);
        for (int32_t i = 0; i < ITERA_WIDTH; i++) m.added[i] = m.added[i] + m.shares[j] * m.wide[i];
    }
}
#endif

static void feed_forward(const Layer *layer)
{
    memset(m.added, 0, sizeof m.added);
#if ITERA_EXPERTS
    experts(layer);
#endif
#if ITERA_FF
    float *gate = m.hidden, *up = m.hidden + ITERA_FF;
    multiply(&layer->gate, m.normed, gate);
    multiply(&layer->up, m.normed, up);
    add_bias(layer->gate_bias, ITERA_FF, gate);
    add_bias(layer->up_bias, ITERA_FF, up);
    for (int32_t i = 0; i < ITERA_FF; i++) gate[i] = silu(gate[i]) * up[i];
    multiply(&layer->down, gate, m.wide);
    add_bias(layer->down_bias, ITERA_WIDTH, m.wide);
    for (int32_t i = 0; i < ITERA_WIDTH; i++) m.added[i] += m.wide[i];
#endif
}

/* Reads one token, for which there is room. */
static void forward(int32_t token)
{
    embed(token);
    memset(m.added, 0, sizeof m.added);
#if ITERA_CACHES && ITERA_ROTARY
    for (int32_t i = 0; i < ITERA_ROTARY / 2; i++) {
        const double angle = m.position * rotary_frequencies[i];
        m.cosines[i] = (float)cos(angle);
        m.sines[i] = (float)sin(angle);
    }
#endif
    for (int32_t l = 0; l < ITERA_LAYERS; l++) {
        const Layer *layer = &layers[l];
        add_norm(layer->mixer_norm);
#if ITERA_CACHES
        if (layer->kv_heads) attention(layer);
#endif
#if ITERA_MAMBA_LAYERS
        if (!layer->kv_heads) mamba(layer);
#endif
        add_norm(layer->ffn_norm);
        feed_forward(layer);
    }
    add_norm(output_norm);
    m.position++;
}

/* ---- sampling ---- */

/* xoroshiro128++ (Blackman and Vigna, 2021), its upper 53 bits: 0 <= result < 1. */
static double uniform(void)
{
    const uint64_t a = m.random[0], b = m.random[1] ^ a, sum = a + m.random[1];
    const uint64_t bits = (sum << 17 | sum >> 47) + a;
    m.random[0] = (a << 49 | a >> 15) ^ b ^ b << 21;
    m.random[1] = b << 28 | b >> 36;
    return (double)(bits >> 11) * 0x1p-53;
}

/* e^x for -88 <= x <= 0; 0 at the lower end. */
static float weight_of(float x)
{
    static const float terms[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    x = x > -88.0f ? x : -88.0f;
    const float shifted = x * 1.44269504f + 12582912.0f; /* rounds to an integer */
    const float power = from_bits((bits_of(shifted) << 23) + 0x3f800000u);
    const float k = shifted - 12582912.0f;
    float p = 1.0f / 720;
    x = (x - k * 0.693359375f) - k * -2.12194440e-4f;
    for (size_t i = 0; i < sizeof terms / sizeof terms[0]; i++) p = p * x + terms[i];
    return p * power;
}

/* Draws a token, given the weights' sum. */
static int32_t draw(const float *weights, double mass)
{
    int32_t last = 0; /* where rounding leaves something over */
    double left = uniform() * mass;
    for (int32_t i = 0; i < ITERA_VOCABULARY && left >= 0; i++) {
        if (weights[i] <= 0) continue;
        last = i;
        left -= (double)weights[i];
    }
    return last;
}

static int32_t choose(float *logits)
{
    int32_t best = 0;
    for (int32_t i = 1; i < ITERA_VOCABULARY; i++)
        if (logits[i] > logits[best]) best = i;
    if (m.temperature <= 0) return best;
    const float most = logits[best];
    const float by = 1.0f / (m.temperature > FLT_MIN ? m.temperature : FLT_MIN);
    double mass = 0;
    for (int32_t i = 0; i < ITERA_VOCABULARY; i++) {
        logits[i] = weight_of((logits[i] - most) * by);
        mass += (double)logits[i];
    }
    if (m.top_p >= 1) return draw(logits, mass);
    /* A token is returned if the tokens of greater weight don't reach the target without it. Else
       the next draw is among those tokens alone. */
    const double target = (double)m.top_p * mass;
    for (;;) {
        const int32_t token = draw(logits, mass);
        const float weight = logits[token];
        mass = 0; /* of those before it: greater, or as great with a lower number */
        for (int32_t i = 0; i < ITERA_VOCABULARY; i++)
            if (logits[i] > weight || (logits[i] == weight && i < token))
                mass += (double)logits[i];
        if (mass < target || mass <= 0) return token;
        for (int32_t i = 0; i < ITERA_VOCABULARY; i++)
            if (logits[i] < weight || (logits[i] == weight && i >= token)) logits[i] = 0;
    }
}

/* ---- tokenizer ---- */

enum { OTHER, LETTER, NUMBER, SPACE, NONE };

#include "unicode.h"

typedef struct {
    int32_t kind; /* NONE: the end of the text, or a byte that isn't UTF-8 */
    size_t bytes;
} Character;

static int32_t kind_of(uint32_t point)
{
    size_t low = 0, high = sizeof char_runs / sizeof char_runs[0];
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (char_runs[middle] >> 2 <= point)
            low = middle;
        else
            high = middle;
    }
    return (int32_t)(char_runs[low] & 3);
}

/* The character at s[at]; UTF-8 as in Unicode's table 3-7. */
static Character character(const uint8_t *s, size_t n, size_t at)
{
    Character c = {NONE, 0};
    if (at == n) return c;
    const uint8_t lead = s[at];
    const size_t whole = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    uint32_t point = whole == 1 ? lead : lead & (0xffu >> (whole + 1));
    c.bytes = 1;
    if ((lead >= 0x80 && lead < 0xc2) || lead > 0xf4) return c;
    for (size_t i = 1; i < whole; i++) {
        /* No overlong forms, no surrogates, nothing beyond U+10FFFF. */
        const uint8_t low = i > 1 ? 0x80 : lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
        const uint8_t high = i > 1 ? 0xbf : lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        if (at + i == n || s[at + i] < low || s[at + i] > high) return c;
        point = point << 6 | (s[at + i] & 0x3f);
    }
    c.kind = kind_of(point);
    c.bytes = whole;
    return c;
}

/* The length of 's, 't, 're, 've, 'm, 'll or 'd, which begins with a quotation mark, or 0. */
static size_t contraction(const uint8_t *s, size_t n)
{
    if (n < 2) return 0;
    if (s[1] == 's' || s[1] == 't' || s[1] == 'm' || s[1] == 'd') return 2;
    if (n < 3) return 0;
    return memcmp(s + 1, "re", 2) && memcmp(s + 1, "ve", 2) && memcmp(s + 1, "ll", 2) ? 0 : 3;
}

static size_t end_of_run(const uint8_t *s, size_t n, size_t at, int32_t kind)
{
    for (;;) {
        const Character c = character(s, n, at);
        if (c.kind != kind) return at;
        at += c.bytes;
    }
}

/* Where the piece that begins at s[at] ends. GPT-2's pattern:
   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t end_of_piece(const uint8_t *s, size_t n, size_t at)
{
    const Character first = character(s, n, at), second = character(s, n, at + first.bytes);
    size_t last = at, end = at; /* where the last white space begins and ends */
    if (first.kind == NONE) return at + first.bytes;
    if (first.kind != SPACE) {
        const size_t length = s[at] == '\'' ? contraction(s + at, n - at) : 0;
        return length ? at + length : end_of_run(s, n, at + first.bytes, first.kind);
    }
    if (s[at] == ' ' && second.kind != SPACE && second.kind != NONE)
        return end_of_run(s, n, at + first.bytes + second.bytes, second.kind);
    for (;;) {
        const Character c = character(s, n, end);
        /* The last white space before a word belongs to the word, unless it is the only one. */
        if (c.kind != SPACE) return c.kind == NONE || last == at ? end : last;
        last = end;
        end += c.bytes;
    }
}

#if ITERA_MERGES
/* The place in the table of the merge of two tokens, or -1. */
static int32_t merge_of(int32_t left, int32_t right)
{
    int32_t low = 0, high = ITERA_MERGES - 1;
    while (low <= high) {
        const int32_t middle = low + (high - low) / 2;
        const int32_t l = (int32_t)merge_left[middle], r = (int32_t)merge_right[middle];
        if (l == left && r == right) return middle;
        if (l < left || (l == left && r < right))
            low = middle + 1;
        else
            high = middle - 1;
    }
    return -1;
}
#endif

/* Merges the pair of the lowest rank, the leftmost of several, until there is none; returns how many
   ids are left. */
static int32_t merge(int32_t *ids, int32_t n)
{
#if ITERA_MERGES
    for (;;) {
        int32_t best = -1, place = 0;
        for (int32_t i = 0; i + 1 < n; i++) {
            const int32_t found = merge_of(ids[i], ids[i + 1]);
            if (found < 0 || (best >= 0 && merge_rank[found] >= merge_rank[best])) continue;
            best = found;
            place = i;
        }
        if (best < 0) return n;
        ids[place] = (int32_t)merge_result[best];
        for (int32_t i = place + 1; i + 1 < n; i++) ids[i] = ids[i + 1];
        n--;
    }
#else
    (void)ids;
    return n;
#endif
}

/* ---- the functions for other files ---- */

void itera_init(void)
{
    memset(&m, 0, sizeof m);
    itera_sampling(ITERA_TEMPERATURE, ITERA_TOP_P, 0);
    m.pending = -1;
#if ITERA_BOS >= 0
    forward(ITERA_BOS);
#endif
}

void itera_sampling(float temperature, float top_p, uint64_t seed)
{
    m.temperature = temperature;
    m.top_p = top_p;
    for (int32_t i = 0; i < 2; i++) { /* SplitMix64, as xoroshiro's authors advise */
        uint64_t z = seed += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        m.random[i] = z ^ z >> 31;
    }
}

int32_t itera_encode(const char *text, size_t bytes, int32_t *ids, int32_t room)
{
    const uint8_t *s = (const uint8_t *)text;
    int32_t n = 0;
    for (size_t at = 0; at < bytes;) {
        const size_t end = end_of_piece(s, bytes, at);
        if (room < n || end - at > (size_t)(room - n)) return ITERA_FULL;
        for (size_t i = at; i < end; i++) ids[n + (int32_t)(i - at)] = (int32_t)byte_ids[s[i]];
        n += merge(ids + n, (int32_t)(end - at));
        at = end;
    }
    return n;
}

/* Reads the token that was chosen last. */
static int32_t read_pending(void)
{
    if (m.pending < 0) return 0;
    if (m.position == ITERA_CONTEXT) return ITERA_FULL;
    forward(m.pending);
    m.pending = -1;
    return 0;
}

int32_t itera_read(const int32_t *ids, int32_t count)
{
    const int32_t error = read_pending();
    if (error) return error;
    if (count < 0) return ITERA_WRONG;
    if (count > ITERA_CONTEXT - m.position) return ITERA_FULL;
    for (int32_t i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= ITERA_VOCABULARY) return ITERA_WRONG;
    for (int32_t i = 0; i < count; i++) forward(ids[i]);
    return 0;
}

/* Computes the logits; returns 0, or why there are none. */
static int32_t compute_logits(void)
{
    const int32_t error = read_pending();
    if (error) return error;
    if (m.position == 0) return ITERA_WRONG;
    multiply(&output, m.normed, m.logits);
    if (ITERA_LOGIT_SCALE != 1.0f)
        for (int32_t i = 0; i < ITERA_VOCABULARY; i++) m.logits[i] /= ITERA_LOGIT_SCALE;
    return 0;
}

const float *itera_logits(void) { return compute_logits() ? NULL : m.logits; }

int32_t itera_next(void)
{
    const int32_t error = compute_logits();
    if (error) return error;
    const int32_t token = choose(m.logits);
    if (token == ITERA_EOT) return ITERA_END;
    m.pending = token;
    return token;
}

const char *itera_bytes(int32_t id, int32_t *length)
{
    *length = 0;
    if (id < 0 || id >= ITERA_VOCABULARY) return "";
    const size_t begin = id ? token_ends[id - 1] : 0;
    *length = (int32_t)(token_ends[id] - begin);
    return (const char *)token_bytes + begin;
}

/* ---- a program: model [PROMPT [TOKENS [TEMPERATURE [SEED]]]] ---- */

#ifdef ITERA_MAIN
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    static char line[16 * ITERA_CONTEXT];
    static int32_t ids[4 * ITERA_CONTEXT];
    size_t got = 0;
    const char *prompt = argc > 1 ? argv[1] : line;
    const long tokens = argc > 2 ? strtol(argv[2], NULL, 10) : ITERA_CONTEXT;
    if (argc < 2) line[got = fread(line, 1, sizeof line - 1, stdin)] = 0;
    const int cut = got == sizeof line - 1 && getchar() != EOF;
    itera_init();
    if (argc > 3)
        itera_sampling((float)strtod(argv[3], NULL), ITERA_TOP_P,
                       argc > 4 ? strtoull(argv[4], NULL, 10) : 0);
    const int32_t n = itera_encode(prompt, strlen(prompt), ids, 4 * ITERA_CONTEXT);
    if (cut || n < 0 || itera_read(ids, n) < 0) {
        fprintf(stderr, "the prompt is too long: there is room for %d tokens\n", ITERA_CONTEXT);
        return 1;
    }
    fputs(prompt, stdout);
    for (long i = 0; i < tokens; i++) {
        int32_t length;
        const int32_t id = itera_next();
        if (id < 0) break;
        const char *bytes = itera_bytes(id, &length);
        fwrite(bytes, 1, (size_t)length, stdout);
        fflush(stdout);
    }
    putchar('\n');
    return 0;
}
#endif
#endif
