// Scores several texts at once, each on a thread.
#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>

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
            std::optional<State> state;
            try {
                session.emplace(model, kScoreRows);
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

}  // namespace itera
