// Measures by a table of kernels that are wrapped in clocks; the forward pass stays as it is.
#include "measure/profile.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <type_traits>

#include "model/session.h"
#include "text/sampler.h"

namespace itera {

namespace {

enum Part : size_t {
    kMambaProducts, kAttentionProducts, kExpertProducts, kDenseProducts, kHead,
    kStateSpace, kAttention, kNorms, kGates, kQuantize, kSampling, kParts
};
constexpr const char *kNames[kParts] = {
    "Mamba-2 matrices", "attention matrices", "experts' matrices", "feed-forward matrices", "head",
    "convolution and state space", "attention over the context", "norms", "gates and sums",
    "activations to 8 bits", "sampling"};

using Clock = std::chrono::steady_clock;

uint64_t ticks() {
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return uint64_t(Clock::now().time_since_epoch().count());
#endif
}

// Of the one profile that a thread makes at a time; kernels are plain functions without an object.
thread_local const Kernels *base;
thread_local std::array<uint64_t, kParts> spent, calls;
thread_local std::vector<std::pair<const std::byte *, Part>> owners;  // sorted by address

template <class Work> auto timed(Part part, Work work) {
    struct Stop {
        Part part;
        uint64_t begin;
        ~Stop() {
            spent[part] += ticks() - begin;
            calls[part]++;
        }
    } stop{part, ticks()};
    return work();
}

template <auto Member, Part P> struct Timed;
template <class R, class... A, R (*Kernels::*Member)(A...), Part P> struct Timed<Member, P> {
    static R call(A... arguments) {
        return timed(P, [&] { return (base->*Member)(arguments...); });
    }
};

// The address of its weights tells which layer's product it is.
void timed_matmul(const Matrix &m, const Rows &rows, float *y, size_t stride) {
    const auto after = std::upper_bound(owners.begin(), owners.end(), m.data,
                                        [](auto at, const auto &o) { return at < o.first; });
    timed(after[-1].second, [&] { base->matmul(m, rows, y, stride); });
}

Kernels clocked(const Kernels &kernels) {
    Kernels k = kernels;
    k.matmul = timed_matmul;
    k.quantize = Timed<&Kernels::quantize, kQuantize>::call;
    k.add_norm = Timed<&Kernels::add_norm, kNorms>::call;
    k.gated_silu = Timed<&Kernels::gated_silu, kGates>::call;
    k.axpy = Timed<&Kernels::axpy, kGates>::call;
    k.convolve = Timed<&Kernels::convolve, kStateSpace>::call;
    k.ssm_step = Timed<&Kernels::ssm_step, kStateSpace>::call;
    k.rotate = Timed<&Kernels::rotate, kAttention>::call;
    k.attend = Timed<&Kernels::attend, kAttention>::call;
    k.attend8 = Timed<&Kernels::attend8, kAttention>::call;
    k.store8 = Timed<&Kernels::store8, kAttention>::call;
    return k;
}

void find_owners(const Model &model) {
    owners = {{model.head.data, kHead}};
    for (const Layer &l : model.layers) {
        for (const Matrix &m : {l.in, l.out}) owners.emplace_back(m.data, kMambaProducts);
        for (const Matrix &m : {l.q, l.k, l.v, l.o})
            owners.emplace_back(m.data, kAttentionProducts);
        for (const Matrix &m : {l.router, l.experts_in, l.experts_out})
            owners.emplace_back(m.data, kExpertProducts);
        for (const Matrix &m : {l.ffn_in, l.ffn_out}) owners.emplace_back(m.data, kDenseProducts);
    }
    std::erase_if(owners, [](const auto &o) { return !o.first; });  // a matrix that a layer lacks
    std::sort(owners.begin(), owners.end());
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// Seconds a token of `tokens` greedy ones after a prompt that is in `read` but for its last token.
double decode(Session &session, size_t vocab, const State &read, int32_t last, uint32_t tokens,
              bool clocks) {
    State state = read.fork();
    SamplerOptions greedy;
    greedy.temperature = 0;
    Sampler sampler(greedy, int32_t(vocab));
    Row row{last, &state};
    const auto step = [&] {
        session.forward({&row, 1});
        session.logits(0, 1, [&](uint32_t, float *logits) {
            const auto choose = [&] { return sampler.sample({logits, vocab}); };
            row.token = clocks ? timed(kSampling, choose) : choose();
        });
    };
    step();  // warms up
    spent.fill(0);
    calls.fill(0);
    const auto begin = Clock::now();
    for (uint32_t i = 0; i < tokens; i++) step();
    return std::chrono::duration<double>(Clock::now() - begin).count() / tokens;
}

struct Clocks {
    double second;  // seconds of a tick
    double empty;   // ticks that an empty piece of work seems to take
    double cost;    // ticks that it takes with its clocks
};

Clocks calibrate() {
    constexpr int kTimes = 10000;
    spent.fill(0);
    const auto begin = Clock::now();
    const uint64_t first = ticks();
    for (int i = 0; i < kTimes; i++) timed(kSampling, [] { asm volatile("" ::: "memory"); });
    const double all = double(ticks() - first);
    const double second = std::chrono::duration<double>(Clock::now() - begin).count() / all;
    return {second, double(spent[kSampling]) / kTimes, all / kTimes};
}

}  // namespace

std::vector<std::pair<const char *, double>> profile(const Model &model,
                                                     std::span<const int32_t> prompt,
                                                     uint32_t tokens, uint32_t passes) {
    if (prompt.empty() || !tokens || !passes)
        throw UsageError("a profile needs a prompt, and at least one token and one pass");
    base = &model.kernels;
    find_owners(model);
    const Kernels with_clocks = clocked(model.kernels);
    const size_t vocab = model.config.vocab_size;
    State state(model);
    Session plain(model, 64), watched(model, 1, &with_clocks);
    plain.read(state, prompt.first(prompt.size() - 1));
    std::vector<double> total, rest, samples[kParts];
    for (uint32_t p = 0; p < passes; p++) {
        total.push_back(decode(plain, vocab, state, prompt.back(), tokens, false));
        double left = decode(watched, vocab, state, prompt.back(), tokens, true);
        const auto found = spent, times = calls;
        const Clocks clocks = calibrate();
        for (size_t i = 0; i < kParts; i++) {
            const double n = double(times[i]), ticks = double(found[i]) - clocks.empty * n;
            const double part = std::max(0.0, clocks.second * ticks / tokens);
            left -= part + clocks.second * clocks.cost * n / tokens;
            samples[i].push_back(part);
        }
        rest.push_back(left);
    }
    std::vector<std::pair<const char *, double>> out;
    for (size_t i = 0; i < kParts; i++)
        if (const double part = median(samples[i]); part > 0) out.emplace_back(kNames[i], part);
    out.emplace_back("rest", median(rest));
    out.emplace_back("total", median(total));
    return out;
}

}  // namespace itera
