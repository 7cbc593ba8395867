#include "run/score.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "model/session.h"
#include "text/sampler.h"

namespace itera {

namespace {

// The entropy in nats of the softmax of the logits.
double entropy(const Kernels &kernels, std::span<const float> logits) {
    constexpr size_t kSums = 16, kFloatSums = 128;  // few enough additions in float to stay exact
    std::vector<float> weights(logits.size() + kLanes);
    const float max = Sampler::greatest(logits);
    const double mass = kernels.exponentials(logits.data(), logits.size(), max, 1, weights.data());
    // -sum(p log p) = log(mass) + sum(w (max - logit)) / mass, in which no term is negative
    double total = 0;
    for (size_t begin = 0; begin < logits.size(); begin += kFloatSums) {
        const size_t end = std::min(begin + kFloatSums, logits.size());
        float sums[kSums] = {};
        size_t i = begin;
        for (; i + kSums <= end; i += kSums)
            for (size_t l = 0; l < kSums; l++) sums[l] += weights[i + l] * (max - logits[i + l]);
        for (; i < end; i++) sums[0] += weights[i] * (max - logits[i]);
        for (const float sum : sums) total += sum;
    }
    return std::log(mass) + total / mass;
}

void add(const Model &model, const float *logits, float log_sum, int32_t id,
         const ScoreOptions &options, Score &out) {
    const double p = log_probability(logits[id], log_sum);
    out.nats -= p;
    if (options.log_probabilities) out.log_probabilities.push_back(p);
    if (options.entropies)
        out.entropies.push_back(entropy(model.kernels, {logits, model.config.vocab_size}));
}
void add(const Model &model, const float *logits, int32_t id, const ScoreOptions &options,
         Score &out) {
    const float log_sum = model.kernels.log_sum_exp(logits, model.config.vocab_size);
    add(model, logits, log_sum, id, options, out);
}

void check_finite(const Score &score) {
    if (!std::isfinite(score.nats))
        throw Error("a text's log-probability is not a number: the model's numbers overflow; its "
                    "file is damaged, or the training diverged");
}

// Reads ids from an empty state, each but the last; ids[i] predicts ids[i + 1], which is scored
// unless i is less than `context`.
void score_window(Session &session, State &state, std::span<const int32_t> ids, size_t context,
                  const Model &model, const ScoreOptions &options, Score &out) {
    state.clear();
    session.read(state, ids.first(ids.size() - 1), [&](size_t at, uint32_t n) {
        const size_t first = context > at ? std::min<size_t>(n, context - at) : 0;
        session.logits(uint32_t(first), n, [&](uint32_t row, const float *logits) {
            add(model, logits, ids[at + row + 1], options, out);
        });
    });
}

}  // namespace

ScoredText scored_text(const Model &model, std::string_view text, const ScoreOptions &options) {
    ScoredText scored{model.tokenizer.encode(text), {}};
    std::vector<int32_t> &ids = scored.ids;
    Score &out = scored.score;
    out.bytes = text.size();
    // Nothing predicts the first token of a text that no token begins.
    if (model.tokenizer.bos() >= 0)
        ids.insert(ids.begin(), model.tokenizer.bos());
    else if (!ids.empty())
        out.bytes -= model.tokenizer.bytes(ids[0]).size();
    if (options.end) ids.push_back(model.tokenizer.eot());
    out.tokens = ids.empty() ? 0 : ids.size() - 1;
    return scored;
}

void score_windows(Session &session, State &state, const Model &model, ScoredText &text,
                   const ScoreOptions &options, const std::function<void()> &between_windows) {
    Score &out = text.score;
    const size_t room = state.context();
    const size_t window = options.window && options.window < room ? options.window : room;
    // As `itera eval` does: the first window scores everything, a later one is full again and
    // scores only what is new.
    const size_t n = out.tokens, stride = window - window / 2;
    for (size_t scored = 0; scored < n;) {
        const size_t end = std::min(n, scored ? scored + stride : window);
        const size_t begin = scored ? end - window : 0;
        score_window(session, state, std::span(text.ids).subspan(begin, end + 1 - begin),
                     scored - begin, model, options, out);
        scored = end;
        between_windows();
    }
    check_finite(out);
}

Beginning::Beginning(Session &session, const Model &model) : state(model) {
    if (model.tokenizer.bos() < 0) return;
    const Row row{model.tokenizer.bos(), &state};
    session.forward({&row, 1});
    session.logits(0, 1, [&](uint32_t, const float *found) {
        logits.assign(found, found + model.config.vocab_size);
    });
    log_sum = model.kernels.log_sum_exp(logits.data(), model.config.vocab_size);
}

void score_together(Session &session, const Beginning &beginning, std::span<State> states,
                    const Model &model, std::span<ScoredText> texts, const ScoreOptions &options) {
    std::vector<Row> rows;
    std::vector<std::pair<ScoredText *, size_t>> scored;  // of each row: a text, and which id
    const size_t read = beginning.state.length();
    for (size_t t = 0; t < texts.size(); t++) {
        ScoredText &text = texts[t];
        if (read && text.ids.size() > 1)
            add(model, beginning.logits.data(), beginning.log_sum, text.ids[1], options,
                text.score);
        states[t].assign(beginning.state);
        for (size_t i = read; i + 1 < text.ids.size(); i++) {
            rows.push_back({text.ids[i], &states[t]});
            scored.emplace_back(&text, i + 1);
        }
    }
    if (!rows.empty()) session.forward(rows);
    session.logits(0, uint32_t(rows.size()), [&](uint32_t row, const float *logits) {
        const auto [text, at] = scored[row];
        add(model, logits, text->ids[at], options, text->score);
    });
    for (const ScoredText &text : texts) check_finite(text.score);
}

Score score_text(Session &session, State &state, const Model &model, std::string_view text,
                 const ScoreOptions &options, const std::function<void()> &between_windows) {
    ScoredText scored = scored_text(model, text, options);
    score_windows(session, state, model, scored, options, between_windows);
    return std::move(scored.score);
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
