#include "sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <string>

namespace itera {
namespace {

constexpr int32_t kLongestWindow = 1 << 20;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename T>
void require(bool good, const char *name, T value, const char *expected) {
    if (good) return;
    char digits[32];  // the shortest text that gives the value again
    const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
    throw Error(std::string(name) + "=" + std::string(digits, end) + ": expected " + expected);
}

// e^x for x <= 0, to about 1e-7 of the value; 0 below -87, where floats lose precision. Without
// branches or tables, so that compilers vectorise it, and of IEEE basics only, so that (compiled
// with -ffp-contract=off) all machines get the same bits.
inline float exp_negative(float x) {
    constexpr float kLowest = -87.0f, kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds
    constexpr float kLog2High = 0.693359375f, kLog2Low = -2.12194440e-4f;  // ln 2 in two parts
    const float bounded = x > kLowest ? x : kLowest;
    const float shifted = bounded * 1.44269504f + kRounder;
    const float power = shifted - kRounder;  // e^x = 2^power * e^rest
    const float rest = (bounded - power * kLog2High) - power * kLog2Low;
    float sum = 1.0f / 720;  // Taylor's series; |rest| <= ln(2) / 2
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) << 23) + 0x3F800000u;
    return x > kLowest ? sum * std::bit_cast<float>(exponent) : 0.0f;
}

// The greatest logit. Throws where there is none or it isn't finite.
float maximum(std::span<const float> logits) {
    float best = -kInfinity;
    uint32_t not_numbers = 0;
    for (const float x : logits) {
        best = x > best ? x : best;
        // By its bits: this holds whatever the compiler assumes about floats.
        not_numbers += (std::bit_cast<uint32_t>(x) & 0x7FFFFFFFu) > 0x7F800000u;
    }
    if (not_numbers != 0) {
        throw Error(std::to_string(not_numbers) + " of " + std::to_string(logits.size()) +
                    " logits are NaN: expected numbers; the model or its file is damaged");
    }
    if (!(best > -kInfinity && best < kInfinity)) {
        throw Error(std::string("the greatest logit is ") + (best > 0 ? "inf" : "-inf") +
                    ": expected a finite one; the model is damaged or a bias excludes all tokens");
    }
    return best;
}

// Calls keep(i, e^((x - max) / temperature)) and returns their sum, always in the same order of
// additions: in several lanes, because one would wait for each addition.
template <typename Keep>
double exponentials(std::span<const float> logits, float max, float temperature, Keep keep) {
    constexpr size_t kLanes = 8, kBlock = 128;  // few enough additions for float
    double sum = 0;
    for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
        const size_t end = std::min(begin + kBlock, logits.size());
        float lanes[kLanes] = {};
        size_t i = begin;
        for (; i + kLanes <= end; i += kLanes) {
            for (size_t lane = 0; lane < kLanes; ++lane) {
                const float e = exp_negative((logits[i + lane] - max) / temperature);
                keep(i + lane, e);
                lanes[lane] += e;
            }
        }
        for (; i < end; ++i) {
            const float e = exp_negative((logits[i] - max) / temperature);
            keep(i, e);
            lanes[0] += e;
        }
        for (const float lane : lanes) sum += lane;
    }
    return sum;
}

// Weights by size: in buckets of a quarter of a binary order of magnitude each. Finds where the
// greatest ones reach a number or a mass without sorting more than one bucket.
class Ranking {
  public:
    // The last weight that is kept. Equal weights rank by id, the lowest first.
    struct Border {
        float weight;
        int32_t id;
        double mass;  // of all that are kept
        bool keeps(float w, int32_t i) const { return w > weight || (w == weight && i <= id); }
    };

    explicit Ranking(std::span<const float> weights) : weights_(weights) {
        for (const float w : weights) {
            Bucket &bucket = buckets_[bucket_of(w)];
            bucket.mass += w;
            ++bucket.count;
        }
    }

    // The first `count` weights at most, no more of them than it takes to reach `mass`.
    Border border(size_t count, double mass, std::vector<std::pair<float, int32_t>> &scratch) const {
        size_t bucket = kBuckets - 1, kept = 0;
        double sum = 0;
        const auto whole = [&](const Bucket &b) {
            return kept + b.count < count && sum + b.mass < mass;
        };
        for (; bucket > 0 && whole(buckets_[bucket]); --bucket) {
            kept += buckets_[bucket].count;
            sum += buckets_[bucket].mass;
        }
        scratch.clear();
        for (size_t i = 0; i < weights_.size(); ++i) {
            if (bucket_of(weights_[i]) == bucket) {
                scratch.emplace_back(-weights_[i], static_cast<int32_t>(i));
            }
        }
        std::sort(scratch.begin(), scratch.end());
        Border result{0, std::numeric_limits<int32_t>::max(), sum};
        for (const auto &[negative, id] : scratch) {
            result = {-negative, id, result.mass - negative};
            if (++kept >= count || result.mass >= mass) break;
        }
        return result;
    }

  private:
    struct Bucket {
        double mass = 0;
        uint32_t count = 0;
    };
    static constexpr size_t kBuckets = (0x3F800000u >> 21) + 1;  // the last holds 1

    static size_t bucket_of(float w) { return std::bit_cast<uint32_t>(w) >> 21; }

    std::span<const float> weights_;
    std::array<Bucket, kBuckets> buckets_{};
};

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
    candidates_.reserve(static_cast<size_t>(vocab_size));
    if (o.repetition_penalty != 1) {
        recent_.assign(static_cast<size_t>(o.repetition_window), -1);
        penalised_.assign(static_cast<size_t>(vocab_size), 0);
    }
    vocab_size_ = vocab_size;

    uint64_t state = o.seed;  // xoroshiro wants its state filled by splitmix64 (Vigna)
    for (uint64_t &word : random_) {
        state += 0x9E3779B97F4A7C15u;
        word = (state ^ state >> 30) * 0xBF58476D1CE4E5B9u;
        word = (word ^ word >> 27) * 0x94D049BB133111EBu;
        word ^= word >> 31;
    }
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
    for (const int32_t token : recent_) {
        const auto i = static_cast<size_t>(token);
        if (token < 0 || penalised_[i] == calls_) continue;  // once, however often it occurred
        penalised_[i] = calls_;
        float &logit = logits[i];
        logit = logit > 0 ? logit / options_.repetition_penalty
                          : logit * options_.repetition_penalty;
    }
}

int32_t Sampler::sample(std::span<float> logits) {
    if (logits.size() != static_cast<size_t>(vocab_size_)) {
        throw Error(std::to_string(logits.size()) + " logits: expected " +
                    std::to_string(vocab_size_) + ", one for each token");
    }
    adjust(logits);
    const float max = maximum(logits);
    if (options_.temperature == 0) {
        return static_cast<int32_t>(std::find(logits.begin(), logits.end(), max) - logits.begin());
    }
    // A subnormal temperature may count as 0 where the processor flushes those.
    const float temperature = std::max(options_.temperature, std::numeric_limits<float>::min());
    double mass = exponentials(logits, max, temperature,
                               [&](size_t i, float weight) { logits[i] = weight; });

    // Everything, unless an option draws the border higher.
    Ranking::Border border{0, vocab_size_, mass};
    const auto k = static_cast<size_t>(options_.top_k);
    const bool by_k = k > 0 && k < logits.size(), by_p = options_.top_p < 1;
    if (by_k || by_p) {
        const Ranking ranking(logits);
        if (by_k) border = ranking.border(k, HUGE_VAL, candidates_);
        if (by_p) {
            const double target = options_.top_p * border.mass;
            border = ranking.border(by_k ? k : logits.size(), target, candidates_);
        }
    }
    if (options_.min_p > border.weight) border = {options_.min_p, vocab_size_, 0};

    candidates_.clear();
    mass = 0;
    for (size_t i = 0; i < logits.size(); ++i) {
        const auto id = static_cast<int32_t>(i);
        if (logits[i] > 0 && border.keeps(logits[i], id)) {
            candidates_.emplace_back(logits[i], id);
            mass += logits[i];
        }
    }
    double left = uniform() * mass;
    for (const auto &[weight, id] : candidates_) {
        if ((left -= weight) < 0) return id;
    }
    return candidates_.back().second;  // rounding left a rest
}

double log_probability(std::span<const float> logits, int32_t token) {
    if (token < 0 || static_cast<size_t>(token) >= logits.size()) {
        throw Error("token " + std::to_string(token) + " of " + std::to_string(logits.size()) +
                    " logits: expected an id that has one");
    }
    const float max = maximum(logits);
    const double mass = exponentials(logits, max, 1, [](size_t, float) {});
    return double{logits[static_cast<size_t>(token)]} - double{max} - std::log(mass);
}

}  // namespace itera
