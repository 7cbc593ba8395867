// Scores several texts: on threads, and of short ones several in a pass.
#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "model/session.h"
#include "run/score.h"

namespace itera {

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
            std::optional<Beginning> beginning;
            std::vector<State> states;  // of the texts of a pass
            try {
                session.emplace(model, kScoreRows);
                beginning.emplace(*session, model);
                states.emplace_back(model);
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
            const auto finished = [&](size_t i, ScoredText &text) {
                out[i] = std::move(text.score);
                const std::lock_guard lock(mutex);
                done += texts[i].size();
                if (progress) progress(done);
            };
            std::vector<ScoredText> pass;
            std::vector<size_t> numbers;  // of its texts
            size_t rows = 0;
            const auto read_pass = [&] {
                while (states.size() < pass.size()) states.emplace_back(model);
                score_together(*session, *beginning, states, model, pass, options);
                for (size_t t = 0; t < pass.size(); t++) finished(numbers[t], pass[t]);
                pass.clear(), numbers.clear(), rows = 0;
            };
            const size_t room = states[0].context();
            const size_t window = options.window ? std::min<size_t>(options.window, room) : room;
            for (size_t i; (i = next++) < texts.size();) {
                ScoredText text = scored_text(model, texts[i], options);
                const size_t n = text.score.tokens;
                if (n > std::min<size_t>(window, kScoreRows)) {
                    score_windows(*session, states[0], model, text, options, between_windows);
                    finished(i, text);
                    continue;
                }
                if (rows + n > kScoreRows || pass.size() == kScoreTexts) read_pass();
                rows += n;
                pass.push_back(std::move(text));
                numbers.push_back(i);
            }
            read_pass();
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

}  // namespace itera
