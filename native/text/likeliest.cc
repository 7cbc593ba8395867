#include "text/likeliest.h"

#include <algorithm>

namespace itera {

void append_likeliest(std::span<const float> logits, float log_sum, size_t n,
                      std::vector<TokenLogProbability> &out) {
    constexpr size_t kBlock = 32;  // logits that are compared together: most hold none
    const size_t first = out.size();
    n = std::min(n, logits.size());
    if (n == 0) return;
    for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
        const size_t end = std::min(begin + kBlock, logits.size());
        if (out.size() - first == n) {
            const auto least = float(out.back().second);
            bool any = false;
            for (size_t i = begin; i < end; ++i) any |= logits[i] > least;
            if (!any) continue;
        }
        for (size_t i = begin; i < end; ++i) {
            const double logit = logits[i];
            if (out.size() - first == n) {
                if (!(logit > out.back().second)) continue;
                out.pop_back();
            }
            const auto at = std::upper_bound(
                out.begin() + std::ptrdiff_t(first), out.end(), logit,
                [](double given, const TokenLogProbability &other) { return given > other.second; });
            out.emplace(at, int32_t(i), logit);
        }
    }
    for (size_t i = first; i < out.size(); ++i)
        out[i].second = log_probability(float(out[i].second), log_sum);
}

}  // namespace itera
