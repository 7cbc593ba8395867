#include "run/score.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <optional>
#include <span>
#include <system_error>
#include <thread>

#include "model/session.h"

namespace itera {

namespace {

constexpr uint32_t kRows = 64;  // tokens read in one pass

// Reads ids from an empty state, each but the last; ids[i] predicts ids[i + 1], which is scored
// unless i is less than `context`.
void score_window(Session &session, State &state, std::span<const int32_t> ids, size_t context,
                  const Model &model, bool keep, Score &out) {
    state.clear();
    session.read(state, ids.first(ids.size() - 1), [&](size_t at, uint32_t n) {
        const size_t first = context > at ? std::min<size_t>(n, context - at) : 0;
        session.logits(uint32_t(first), n, [&](uint32_t row, const float *logits) {
            const double p = log_probability(
                logits[ids[at + row + 1]],
                model.kernels.log_sum_exp(logits, model.config.vocab_size));
            out.nats -= p;
            if (keep) out.log_probabilities.push_back(p);
        });
    });
}

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
                     scored - begin, model, options.log_probabilities, out);
        scored = end;
        between_windows();
    }
    if (!std::isfinite(out.nats))
        throw Error("a text's log-probability is not a number: the model's numbers overflow; its "
                    "file is damaged, or the training diverged");
    return out;
}

}  // namespace

double Score::bits_per_byte() const {
    return bytes ? nats / std::log(2.0) / double(bytes) : 0.0;
}

std::vector<Score> score(const Model &model, const std::vector<std::string_view> &texts,
                         const ScoreOptions &options,
                         const std::function<void(uint64_t)> &progress) {
    if (options.threads < 1 || options.threads > kMostThreads)
        throw UsageError("threads=" + std::to_string(options.threads) + ": expected 1 to " +
                         std::to_string(kMostThreads));
    std::vector<Score> out(texts.size());
    std::atomic<size_t> next = 0;
    std::mutex mutex;
    std::exception_ptr failed;
    uint64_t done = 0;
    const auto work = [&](bool is_extra) {
        try {
            std::optional<Session> session;
            std::optional<State> state;
            try {
                session.emplace(model, kRows);
                state.emplace(model);
            } catch (...) {
                if (is_extra) return;  // too little memory for another thread: the others go on
                throw;
            }
            // A text may be a whole book: `progress` can stop it between two windows.
            const auto between_windows = [&] {
                const std::lock_guard lock(mutex);
                if (failed) std::rethrow_exception(failed);
                if (progress) progress(done);
            };
            for (size_t i; (i = next++) < texts.size();) {
                out[i] = score_text(*session, *state, model, texts[i], options, between_windows);
                const std::lock_guard lock(mutex);
                done += texts[i].size();
                if (progress) progress(done);
            }
        } catch (...) {
            const std::lock_guard lock(mutex);
            if (!failed) failed = std::current_exception();
            next = texts.size();
        }
    };
    const size_t threads = std::min<size_t>(options.threads, texts.size());
    std::vector<std::thread> others;
    others.reserve(threads);
    try {
        for (size_t t = 1; t < threads; t++) others.emplace_back(work, true);
    } catch (const std::system_error &) {
        // The system starts no more threads: those that run do the work.
    }
    work(false);
    for (std::thread &other : others) other.join();
    if (failed) std::rethrow_exception(failed);
    return out;
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
    Session session(model, uint32_t(std::clamp<size_t>(read, 1, kRows)));
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
