#include "text/sampler.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "kernels/kernels.h"
#include "text/hash.h"

namespace itera {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLeast = std::numeric_limits<float>::min();  // of a weight; 0 is never drawn

template <typename T>
void require(bool good, const char *name, T value, const char *expected) {
    if (good) return;
    char digits[32];  // the shortest text that gives the value again
    const auto end = std::to_chars(digits, digits + sizeof digits, value).ptr;
    throw UsageError(std::string(name) + "=" + std::string(digits, end) + ": expected " + expected);
}

// The rank of a weight as one integer: the greatest weight has the least, equal ones go by id.
uint64_t rank_of(float weight, uint32_t id) {
    return uint64_t{~std::bit_cast<uint32_t>(weight)} << 32 | id;
}

float weight_of(uint64_t rank) {
    return std::bit_cast<float>(~static_cast<uint32_t>(rank >> 32));
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
    for (const auto &[name, penalty] : {std::pair("presence_penalty", o.presence_penalty),
                                        std::pair("frequency_penalty", o.frequency_penalty)})
        require(penalty >= -2 && penalty <= 2, name, penalty, "-2 to 2; 0 changes nothing");
    for (const auto &[token, bias] : o.logit_bias) {
        const std::string range = "a token from 0 to " + std::to_string(vocab_size - 1);
        require(token >= 0 && token < vocab_size, "logit_bias token", token, range.c_str());
        const std::string name = "logit_bias of token " + std::to_string(token);
        require(bias < kInfinity, name.c_str(), bias, "a finite number, or -inf to exclude it");
    }
    const size_t room = (static_cast<size_t>(vocab_size) + kLanes - 1) / kLanes * kLanes;
    for (List *list : {&all_, &kept_, &rest_}) {
        list->weights.resize(room);
        list->ids.resize(room);
    }
    all_.size = static_cast<size_t>(vocab_size);
    std::iota(all_.ids.begin(), all_.ids.end(), 0u);
    if (o.repetition_penalty != 1) {
        recent_.assign(static_cast<size_t>(o.repetition_window), -1);
        penalised_.assign(static_cast<size_t>(vocab_size), 0);
    }
    if (o.presence_penalty != 0 || o.frequency_penalty != 0) {
        counts_.assign(static_cast<size_t>(vocab_size), 0);
        generated_.reserve(static_cast<size_t>(vocab_size));
    }
    vocab_size_ = vocab_size;

    uint64_t state = o.seed;
    for (uint64_t &word : random_) word = splitmix64(state);  // as xoroshiro's authors advise
}

void Sampler::accept(int32_t token, bool generated) {
    require(token >= 0 && token < vocab_size_, "token", token, "an id of the vocabulary");
    if (!recent_.empty()) recent_[n_recent_++ % recent_.size()] = token;
    if (!generated || counts_.empty()) return;
    if (counts_[static_cast<size_t>(token)]++ == 0) generated_.push_back(token);
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
    ++calls_;
    for (size_t r = 0; r < std::min(n_recent_, recent_.size()); ++r) {
        const auto i = static_cast<size_t>(recent_[r]);
        if (penalised_[i] == calls_) continue;  // once, however often it occurred
        penalised_[i] = calls_;
        float &logit = logits[i];
        logit = logit > 0 ? logit / options_.repetition_penalty
                          : logit * options_.repetition_penalty;
    }
    for (const int32_t token : generated_) {
        const auto i = static_cast<size_t>(token);
        logits[i] -= options_.presence_penalty + options_.frequency_penalty * counts_[i];
    }
}

float Sampler::greatest(std::span<const float> logits) {
    bool has_nan = false;
    const float greatest = kernels().maximum(logits.data(), logits.size(), &has_nan);
    if (has_nan)
        throw Error("some of " + std::to_string(logits.size()) +
                    " logits are NaN: expected numbers; the model or its file is damaged");
    if (!(greatest > -kInfinity && greatest < kInfinity))
        throw Error(std::string("the greatest logit is ") + (greatest > 0 ? "inf" : "-inf") +
                    ": expected a finite one; the model is damaged or a bias excludes all tokens");
    return greatest;
}

uint64_t Sampler::border(const List &list, float least, size_t count) {
    const Kernels &k = kernels();
    // Fewer than `count` weights are `high` or more; as many are `low` or more, or there are no
    // more of them. `rest` is what lies between. Positive floats are ordered as their bits are, so
    // that halving the bits ends after 31 steps at most.
    constexpr size_t kFew = 16;
    uint32_t low = std::bit_cast<uint32_t>(least), high = std::bit_cast<uint32_t>(1.0f) + 1;
    const auto number = [](uint32_t bits) { return std::bit_cast<float>(bits); };
    const List *rest = &list;
    while (rest->size > kFew && high - low > 1) {
        const uint32_t middle = low + (high - low) / 2;
        size_t more = 0;
        k.mass_from(rest->weights.data(), rest->size, number(middle), &more);
        const bool enough = more >= count;
        (enough ? low : high) = middle;
        if (!enough) count -= more;
        if (more == (enough ? rest->size : 0)) continue;  // all lie on the side that remains
        rest_.size = k.select(rest->weights.data(), rest->ids.data(), rest->size, number(low),
                              number(high), rest_.weights.data(), rest_.ids.data());
        rest = &rest_;
    }
    // Few are left, or many of one weight, which are in the order of their ids already.
    uint64_t ranks[kFew];
    const bool few = rest->size <= kFew;
    if (few) {
        for (size_t i = 0; i < rest->size; ++i) {
            ranks[i] = rank_of(rest->weights[i], rest->ids[i]);
        }
        std::sort(ranks, ranks + rest->size);
    }
    const size_t last = std::min(count, rest->size) - 1;
    return few ? ranks[last] : rank_of(rest->weights[last], rest->ids[last]);
}

// A weight that at least `count` tokens have or exceed: found from the greatest ones of groups.
float Sampler::bound_of(size_t count, float least) {
    constexpr size_t kMost = 16;  // weights of a group
    const size_t group = std::min(kMost, all_.size / (2 * count));
    if (group < 2) return least;
    kept_.size = kernels().maxima(all_.weights.data(), all_.size, group, kept_.weights.data());
    std::copy_n(all_.ids.begin(), kept_.size, kept_.ids.begin());
    keep_from(kept_, least);
    return kept_.size < count ? least : weight_of(border(kept_, least, count));
}

void Sampler::keep_from(const List &list, float least) {
    kept_.size = kernels().select(list.weights.data(), list.ids.data(), list.size, least, kInfinity,
                                  kept_.weights.data(), kept_.ids.data());
}

void Sampler::keep_up_to(const List &list, uint64_t rank) {
    keep_from(list, weight_of(rank));
    size_t n = 0;  // some may have the weight of the last one, and higher ids
    for (size_t i = 0; i < kept_.size; ++i) {
        if (rank_of(kept_.weights[i], kept_.ids[i]) > rank) continue;
        kept_.weights[n] = kept_.weights[i];
        kept_.ids[n++] = kept_.ids[i];
    }
    kept_.size = n;
    for (; n % kLanes != 0; ++n) kept_.weights[n] = 0;
}

double Sampler::mass_from(const List &list, float least) {
    size_t count = 0;
    return kernels().mass_from(list.weights.data(), list.size, least, &count);
}

// Draws a token from the list, and returns it if the tokens ranked before it don't reach `target`.
// Else the next draw is among those tokens alone. Every draw is in proportion to the weights and
// includes all tokens that may be returned, so they are returned in that proportion.
uint32_t Sampler::draw(const List &list, double mass, double target) {
    for (const List *from = &list;; from = &kept_) {
        const size_t at = kernels().draw(from->weights.data(), from->size, uniform() * mass);
        const float weight = from->weights[at];
        const uint32_t id = from->ids[at];
        if (mass < target || mass_from(*from, weight) - weight < target) return id;
        // Before it are the greater weights, and the equal ones with lower ids.
        mass = mass_from(*from, std::bit_cast<float>(std::bit_cast<uint32_t>(weight) + 1));
        for (size_t i = 0; i < at; ++i) {
            if (from->weights[i] == weight) mass += weight;
        }
        if (mass < target) return id;
        keep_up_to(*from, rank_of(weight, id) - 1);
    }
}

int32_t Sampler::sample(std::span<float> logits) {
    if (logits.size() != static_cast<size_t>(vocab_size_)) {
        throw UsageError(std::to_string(logits.size()) + " logits: expected " +
                         std::to_string(vocab_size_) + ", one for each token");
    }
    adjust(logits);
    const Kernels &k = kernels();
    const size_t size = logits.size(), top_k = static_cast<size_t>(options_.top_k);
    const float max = greatest(logits);
    if (options_.temperature == 0) return static_cast<int32_t>(k.find(logits.data(), size, max));
    // A subnormal temperature may count as 0 where the processor flushes those.
    const float temperature = std::max(options_.temperature, std::numeric_limits<float>::min());
    double mass = k.exponentials(logits.data(), size, max, temperature, all_.weights.data());
    const List *list = &all_;
    const auto keep = [&] {
        list = &kept_;
        mass = mass_from(kept_, kLeast);
    };
    if (top_k > 0 && top_k < size) {
        const float least = bound_of(top_k, kLeast);
        keep_from(all_, least);
        if (kept_.size > top_k) keep_up_to(kept_, border(kept_, least, top_k));
        keep();
    }
    const double target = options_.top_p < 1 ? options_.top_p * mass : kInfinity;
    if (options_.min_p > 0) {
        keep_from(*list, options_.min_p);
        keep();
    }
    return static_cast<int32_t>(draw(*list, mass, target));
}

}  // namespace itera
