// How probable a model finds texts: log-probabilities, bits per byte.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "model/model.h"
#include "model/session.h"
#include "model/state.h"
#include "text/likeliest.h"

namespace itera {

inline constexpr uint32_t kMostThreads = 4096;

struct Score {
    // Bytes of the text, and tokens scored, the final <|endoftext|> among them. Where no token
    // begins a document, the first one isn't scored, and its bytes don't count.
    uint64_t bytes = 0, tokens = 0;
    double nats = 0;  // minus the sum of their log-probabilities
    std::vector<double> log_probabilities;  // of each token; empty unless the options ask for it
    std::vector<double> entropies;  // in nats, of what was expected in the place of each; likewise

    double bits_per_byte() const;  // 0 for an empty text
};

struct ScoreOptions {
    // Tokens of context at most; 0: the model's. A longer text is read in windows that end half a
    // window apart, so that each token is scored once, with at least half a window before it.
    uint32_t window = 0;
    uint32_t threads = 1;
    bool log_probabilities = false;
    bool entropies = false;
    bool end = true;  // score the <|endoftext|> that ends the text, too
};

inline constexpr uint32_t kScoreRows = 128;  // tokens read in one pass

inline constexpr uint32_t kScoreTexts = 32;  // texts read in one pass, at most

// A text's tokens after the token that begins a document: ids[i + 1] is scored after ids[i].
struct ScoredText {
    std::vector<int32_t> ids;
    Score score;  // its bytes and tokens
};
ScoredText scored_text(const Model &model, std::string_view text, const ScoreOptions &options);

// Scores one text on its own, in as many windows as it takes. `state` is cleared, and the session's
// memory used; `between_windows` may throw to stop.
void score_windows(Session &session, State &state, const Model &model, ScoredText &text,
                   const ScoreOptions &options, const std::function<void()> &between_windows);

// What every text begins with, read once: the state after the token that begins a document, and the
// logits of what follows it.
struct Beginning {
    Beginning(Session &session, const Model &model);
    State state;  // empty where no token begins a document
    std::vector<float> logits;
    float log_sum = 0;
};

// Scores texts in one pass, each on its own: the scores are those of `score_windows`. Together they
// have at most the session's rows of tokens. `states` are overwritten, at least one a text.
void score_together(Session &session, const Beginning &beginning, std::span<State> states,
                    const Model &model, std::span<ScoredText> texts, const ScoreOptions &options);

// `scored_text`, then `score_windows`.
Score score_text(Session &session, State &state, const Model &model, std::string_view text,
                 const ScoreOptions &options, const std::function<void()> &between_windows);

// One score a text, in order. Each text is read on its own, after the token that begins a document.
// Where the system can't start that many threads, fewer do the work. `progress` is called from one
// thread at a time with the bytes done so far, and may throw to stop.
std::vector<Score> score(const Model &model, const std::vector<std::string_view> &texts,
                         const ScoreOptions &options,
                         const std::function<void(uint64_t)> &progress = {});

// The same of tokens, which may go on from a state.
struct TokenScores {
    std::vector<double> log_probabilities;       // of each token but the first
    std::vector<TokenLogProbability> likeliest;  // in the place of each of these
};
// Scores ids[i + 1] after ids[i], by the numbers of `score`, with `n_likeliest` (or all) tokens in
// the place of each. The state ends up after all ids but the last. `between_passes` may throw to
// stop. Throws `UsageError` where there are no ids, or more than the state has room for.
TokenScores score_tokens(const Model &model, State &state, std::span<const int32_t> ids,
                         uint32_t n_likeliest, const std::function<void()> &between_passes = {});

}  // namespace itera
