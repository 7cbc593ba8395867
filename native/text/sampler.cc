#include "text/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/kernels.h"
#include "text/hash.h"
#include "text/softmax.h"

namespace itera {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename T>
void require(bool good, const char *name, T value, const char *expected) {
    if (good) return;
    char digits[32];  // the shortest text that gives the value again
    const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
    throw UsageError(std::string(name) + "=" + std::string(digits, end) + ": expected " + expected);
}

// The rank of a weight as one integer: the greatest weight has the least, equal ones go by id.
uint64_t rank_of(float weight, size_t id) {
    return uint64_t{~std::bit_cast<uint32_t>(weight)} << 32 | id;
}

float weight_of(uint64_t rank) {
    return std::bit_cast<float>(~static_cast<uint32_t>(rank >> 32));
}

constexpr size_t kLastId = UINT32_MAX;

// The last rank that is kept.
struct Border {
    uint64_t rank;
    double mass;  // of all that are kept
};

// Weights from 0 to 1 in buckets, four for each binary order of magnitude: finds where the
// greatest ones reach a number or a mass, and sorts no more than one bucket for it.
class Ranking {
  public:
    explicit Ranking(std::span<const uint64_t> ranks) : ranks_(ranks) {
        for (const uint64_t rank : ranks) {
            Bucket &bucket = buckets_[bucket_of(rank)];
            bucket.mass += weight_of(rank);
            ++bucket.count;
        }
    }

    // The first `count` weights at most, no more of them than it takes to reach `mass`.
    Border border(size_t count, double mass, std::span<uint64_t> scratch) const {
        Border border{UINT64_MAX, 0};  // all, where there are no more
        size_t b = 0, kept = 0;
        for (; b < kBuckets - 1; ++b) {
            const Bucket &whole = buckets_[b];
            if (kept + whole.count >= count || border.mass + whole.mass >= mass) break;
            kept += whole.count;
            border.mass += whole.mass;
        }
        size_t n = 0;
        for (const uint64_t rank : ranks_) {
            if (bucket_of(rank) == b) scratch[n++] = rank;
        }
        std::sort(scratch.begin(), scratch.begin() + static_cast<ptrdiff_t>(n));
        for (size_t i = 0; i < n && kept < count && border.mass < mass; ++i, ++kept) {
            border = {scratch[i], border.mass + weight_of(scratch[i])};
        }
        return border;
    }

  private:
    struct Bucket {
        double mass = 0;
        uint32_t count = 0;
    };
    static constexpr uint64_t kFirst = ~0x3F800000u >> 21;  // the bucket of 1, the greatest
    static constexpr size_t kBuckets = (~0u >> 21) - kFirst + 1;

    static size_t bucket_of(uint64_t rank) { return (rank >> 53) - kFirst; }

    std::span<const uint64_t> ranks_;
    std::array<Bucket, kBuckets> buckets_{};
};

// Keeps the ranks up to the border, in their order.
std::span<uint64_t> keep(std::span<uint64_t> ranks, uint64_t border) {
    size_t n = 0;
    for (const uint64_t rank : ranks) {  // a branch would be mispredicted
        ranks[n] = rank;
        n += rank <= border ? 1 : 0;
    }
    return ranks.first(n);
}

}  // namespace

Sampler::Sampler(const SamplerOptions &options, int32_t vocab_size) : options_(options) {
    const SamplerOptions &o = options_;
    require(vocab_size >= 1, "vocab_size", vocab_size, "1 or more");
    require(o.temperature >= 0 && o.temperature < kInfinity, "temperature", o.temperature,
            "0 (greedy) or more");
    require(o.top_k >= 0, "top_k", o.top_k, "0 (all tokens) or more");
    require(o.top_p > 0 && o.top_p <= 1, "top_p", o.top_p, "more than 0, at most 1 (all tokens)");
    require(o.min_p >= 0 && o.min_p <= 1, "min_p", o.min_p, "0 (all tokens) to 1");
    require(o.repetition_penalty > 0 && o.repetition_penalty < kInfinity, "repetition_penalty",
            o.repetition_penalty, "more than 0; 1 changes nothing");
    require(o.repetition_window >= 0 && o.repetition_window <= kLongestWindow,
            "repetition_window", o.repetition_window, "0 to 1048576 tokens");
    for (const auto &[token, bias] : o.logit_bias) {
        const std::string range = "a token from 0 to " + std::to_string(vocab_size - 1);
        require(token >= 0 && token < vocab_size, "logit_bias token", token, range.c_str());
        const std::string name = "logit_bias of token " + std::to_string(token);
        require(bias < kInfinity, name.c_str(), bias, "a finite number, or -inf to exclude it");
    }
    scratch_.resize(2 * static_cast<size_t>(vocab_size));
    if (o.repetition_penalty != 1) {
        recent_.assign(static_cast<size_t>(o.repetition_window), -1);
        penalised_.assign(static_cast<size_t>(vocab_size), 0);
    }
    vocab_size_ = vocab_size;

    uint64_t state = o.seed;
    for (uint64_t &word : random_) word = splitmix64(state);  // as xoroshiro's authors advise
}

void Sampler::accept(int32_t token) {
    require(token >= 0 && token < vocab_size_, "token", token, "an id of the vocabulary");
    if (!recent_.empty()) recent_[n_recent_++ % recent_.size()] = token;
}

// xoroshiro128++ (Blackman and Vigna, 2021), its upper 53 bits: 0 <= result < 1.
double Sampler::uniform() {
    const uint64_t a = random_[0], b = random_[1] ^ a;
    const uint64_t bits = std::rotl(a + random_[1], 17) + a;
    random_[0] = std::rotl(a, 49) ^ b ^ b << 21;
    random_[1] = std::rotl(b, 28);
    return static_cast<double>(bits >> 11) * 0x1p-53;
}

void Sampler::adjust(std::span<float> logits) {
    for (const auto &[token, bias] : options_.logit_bias) {
        logits[static_cast<size_t>(token)] += bias;
    }
    if (recent_.empty()) return;
    ++calls_;
    for (size_t r = 0; r < std::min(n_recent_, recent_.size()); ++r) {
        const auto i = static_cast<size_t>(recent_[r]);
        if (penalised_[i] == calls_) continue;  // once, however often it occurred
        penalised_[i] = calls_;
        float &logit = logits[i];
        logit = logit > 0 ? logit / options_.repetition_penalty
                          : logit * options_.repetition_penalty;
    }
}

int32_t Sampler::sample(std::span<float> logits) {
    if (logits.size() != static_cast<size_t>(vocab_size_)) {
        throw UsageError(std::to_string(logits.size()) + " logits: expected " +
                         std::to_string(vocab_size_) + ", one for each token");
    }
    adjust(logits);
    const float max = maximum(logits);
    if (options_.temperature == 0) {
        return static_cast<int32_t>(kernels().find(logits.data(), logits.size(), max));
    }
    // A subnormal temperature may count as 0 where the processor flushes those.
    const float temperature = std::max(options_.temperature, std::numeric_limits<float>::min());
    const double mass = exponentials(logits, max, temperature, logits);
    const size_t size = logits.size(), k = static_cast<size_t>(options_.top_k);
    const bool by_k = k > 0 && k < size, by_p = options_.top_p < 1;

    // A weight of 0 is never drawn. Weights so small that all of them together are less than what
    // top-p leaves out needn't be ranked.
    float least = std::numeric_limits<float>::min();
    if (by_p && !by_k) {
        const double left_out = mass * (1 - double{options_.top_p});
        least = std::max(least, static_cast<float>(0.99 * left_out / static_cast<double>(size)));
    }
    const std::span<uint64_t> scratch(scratch_);
    for (size_t id = 0; id < size; ++id) scratch[id] = rank_of(logits[id], id);
    std::span<uint64_t> kept = keep(scratch.first(size), rank_of(least, kLastId));
    Border border{UINT64_MAX, mass};
    if (by_k || by_p) {
        const Ranking ranking(kept);
        const size_t count = by_k ? k : size;
        if (by_k) border = ranking.border(count, HUGE_VAL, scratch.last(size));
        if (by_p) border = ranking.border(count, options_.top_p * border.mass, scratch.last(size));
        kept = keep(kept, border.rank);
    }
    if (options_.min_p > 0) {
        kept = keep(kept, rank_of(options_.min_p, kLastId));
        border.mass = 0;
        for (const uint64_t rank : kept) border.mass += weight_of(rank);
    }
    double left = uniform() * border.mass;
    for (const uint64_t rank : kept) {
        if ((left -= weight_of(rank)) < 0) return static_cast<int32_t>(rank & kLastId);
    }
    return static_cast<int32_t>(kept.back() & kLastId);  // by rounding
}

}  // namespace itera
