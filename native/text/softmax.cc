#include "text/softmax.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>

#include "kernels/kernels.h"

// The compiler vectorises the same lines twice: for any processor, and for those that have AVX2.
#if defined(__x86_64__) && defined(__GNUC__)
#define ITERA_AVX2 1
#endif

namespace itera {
namespace {

constexpr size_t kSums = 16;  // a single sum would wait for each addition before the next

constexpr float kLowest = -88.0f;  // e^-88 rounds to 2^-127, whose exponent's bits are those of 0

// e^x for kLowest <= x <= 0. Without branches or tables, and of IEEE basics only.
[[gnu::always_inline]] inline float exp_negative(float x) {
    constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    constexpr float kLog2High = 0.693359375f, kLog2Low = -2.12194440e-4f;  // ln 2 in two parts
    const float shifted = x * 1.44269504f + kRounder;
    const float power = shifted - kRounder;  // e^x = 2^power * e^rest
    const float rest = (x - power * kLog2High) - power * kLog2Low;
    float sum = 1.0f / 720;  // Taylor's series; |rest| <= ln(2) / 2
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    return sum * std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3F800000u);
}

[[gnu::always_inline]] inline double exponentials_of(std::span<const float> logits, float max,
                                                     float temperature, float *weights) {
    constexpr size_t kBlock = 128;  // few enough additions in float to stay exact
    double sum = 0;
    for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
        const size_t n = std::min(kBlock, logits.size() - begin);
        float block[kBlock];
        std::fill(std::copy_n(logits.data() + begin, n, block), block + kBlock, -HUGE_VALF);
        // Two loops: in one, compilers make e^kLowest a case of its own, with a branch.
        for (float &x : block) x = std::max((x - max) / temperature, kLowest);
        for (float &x : block) x = exp_negative(x);
        float lanes[kSums] = {};
        for (size_t i = 0; i < kBlock; i += kSums) {
            for (size_t lane = 0; lane < kSums; ++lane) lanes[lane] += block[i + lane];
        }
        for (const float lane : lanes) sum += lane;
        if (weights != nullptr) std::copy_n(block, n, weights + begin);
    }
    return sum;
}

#ifdef ITERA_AVX2
const bool kHasAvx2 = __builtin_cpu_supports("avx2");

[[gnu::target("avx2")]] double exponentials_avx2(std::span<const float> logits, float max,
                                                 float temperature, float *weights) {
    return exponentials_of(logits, max, temperature, weights);
}
#endif

}  // namespace

float maximum(std::span<const float> logits) {
    bool has_nan = false;
    const float greatest = kernels().maximum(logits.data(), logits.size(), &has_nan);
    if (has_nan)
        throw Error("some of " + std::to_string(logits.size()) +
                    " logits are NaN: expected numbers; the model or its file is damaged");
    if (!(greatest > -HUGE_VALF && greatest < HUGE_VALF))
        throw Error(std::string("the greatest logit is ") + (greatest > 0 ? "inf" : "-inf") +
                    ": expected a finite one; the model is damaged or a bias excludes all tokens");
    return greatest;
}

double exponentials(std::span<const float> logits, float max, float temperature,
                    std::span<float> weights) {
    float *out = weights.empty() ? nullptr : weights.data();
#ifdef ITERA_AVX2
    if (kHasAvx2) return exponentials_avx2(logits, max, temperature, out);
#endif
    return exponentials_of(logits, max, temperature, out);
}

}  // namespace itera
