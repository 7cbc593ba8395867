#include "run/score.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "model/session.h"
#include "text/sampler.h"

namespace itera {

namespace {

// The entropy in nats of the softmax of the logits. `weights` has room for them and one vector.
double entropy(const Kernels &kernels, std::span<const float> logits, float *weights) {
    constexpr size_t kSums = 16, kFloatSums = 128;  // few enough additions in float to stay exact
    const float max = Sampler::greatest(logits);
    const double mass = kernels.exponentials(logits.data(), logits.size(), max, 1, weights);
    // -sum(p log p) = log(mass) + sum(w (max - logit)) / mass, in which no term is negative
    double total = 0;
    for (size_t begin = 0; begin < logits.size(); begin += kFloatSums) {
        const size_t end = std::min(begin + kFloatSums, logits.size());
        float sums[kSums] = {};
        for (size_t i = begin; i < end; i++)
            sums[i % kSums] += weights[i] > 0 ? weights[i] * (max - logits[i]) : 0;
        for (const float sum : sums) total += sum;
    }
    return std::log(mass) + total / mass;
}

// Reads ids from an empty state, each but the last; ids[i] predicts ids[i + 1], which is scored
// unless i is less than `context`.
void score_window(Session &session, State &state, std::span<const int32_t> ids, size_t context,
                  const Model &model, const ScoreOptions &options, Score &out) {
    const uint32_t vocab = model.config.vocab_size;
    std::vector<float> weights(options.entropies ? vocab + kLanes : 0);
    state.clear();
    session.read(state, ids.first(ids.size() - 1), [&](size_t at, uint32_t n) {
        const size_t first = context > at ? std::min<size_t>(n, context - at) : 0;
        session.logits(uint32_t(first), n, [&](uint32_t row, const float *logits) {
            const double p = log_probability(
                logits[ids[at + row + 1]], model.kernels.log_sum_exp(logits, vocab));
            out.nats -= p;
            if (options.log_probabilities) out.log_probabilities.push_back(p);
            if (options.entropies)
                out.entropies.push_back(entropy(model.kernels, {logits, vocab}, weights.data()));
        });
    });
}

}  // namespace

Score score_text(Session &session, State &state, const Model &model, std::string_view text,
                 const ScoreOptions &options, const std::function<void()> &between_windows) {
    Score out;
    std::vector<int32_t> ids = model.tokenizer.encode(text);
    out.bytes = text.size();
    // Nothing predicts the first token of a text that no token begins.
    if (model.tokenizer.bos() >= 0)
        ids.insert(ids.begin(), model.tokenizer.bos());
    else if (!ids.empty())
        out.bytes -= model.tokenizer.bytes(ids[0]).size();
    if (options.end) ids.push_back(model.tokenizer.eot());
    out.tokens = ids.empty() ? 0 : ids.size() - 1;
    const size_t room = state.context();
    const size_t window = options.window && options.window < room ? options.window : room;
    // As `itera eval` does: the first window scores everything, a later one is full again and
    // scores only what is new.
    const size_t n = out.tokens, stride = window - window / 2;
    for (size_t scored = 0; scored < n;) {
        const size_t end = std::min(n, scored ? scored + stride : window);
        const size_t begin = scored ? end - window : 0;
        score_window(session, state, std::span(ids).subspan(begin, end + 1 - begin),
                     scored - begin, model, options, out);
        scored = end;
        between_windows();
    }
    if (!std::isfinite(out.nats))
        throw Error("a text's log-probability is not a number: the model's numbers overflow; its "
                    "file is damaged, or the training diverged");
    return out;
}

double Score::bits_per_byte() const {
    return bytes ? nats / std::log(2.0) / double(bytes) : 0.0;
}

TokenScores score_tokens(const Model &model, State &state, std::span<const int32_t> ids,
                         uint32_t n_likeliest, const std::function<void()> &between_passes) {
    if (ids.empty()) throw UsageError("no ids: expected at least one");
    const uint32_t vocab = model.config.vocab_size;
    for (const int32_t id : ids)
        if (id < 0 || uint32_t(id) >= vocab)
            throw UsageError("token " + std::to_string(id) + ": expected 0 to " +
                             std::to_string(vocab - 1));
    const size_t read = ids.size() - 1;
    if (state.length() + read > state.context())
        throw UsageError(std::to_string(ids.size()) + " ids after " +
                         std::to_string(state.length()) + " tokens: there is room for " +
                         std::to_string(state.context()) + ". Load with a larger context");
    TokenScores out;
    out.log_probabilities.reserve(read);
    out.likeliest.reserve(read * std::min(n_likeliest, vocab) + 1);
    Session session(model, uint32_t(std::clamp<size_t>(read, 1, kScoreRows)));
    session.read(state, ids.first(read), [&](size_t at, uint32_t n) {
        session.logits(0, n, [&](uint32_t row, const float *logits) {
            const float log_sum = model.kernels.log_sum_exp(logits, vocab);
            const double p = log_probability(logits[ids[at + row + 1]], log_sum);
            if (!std::isfinite(p))
                throw Error("a token's log-probability is not a number: the model's numbers "
                            "overflow; its file is damaged, or the training diverged");
            out.log_probabilities.push_back(p);
            append_likeliest({logits, vocab}, log_sum, n_likeliest, out.likeliest);
        });
        if (between_passes) between_passes();
    });
    return out;
}

}  // namespace itera
