// Text from a model, token by token.
#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/session.h"
#include "model/state.h"
#include "text/likeliest.h"
#include "text/sampler.h"
#include "text/text_stream.h"

namespace itera {

enum class Finish { none, length, stop, failed };

struct GenerateOptions {
    int32_t max_tokens = 200;
    SamplerOptions sampler;
    std::vector<std::string> stops;
    bool log_probabilities = false;
    bool ignore_end = false;  // <|endoftext|> is never chosen (benchmarks)
    // How many of the likeliest tokens to keep in the place of each; more than 0 keeps the
    // log-probabilities too.
    uint32_t top_log_probabilities = 0;
};

// One text that is being written.
class Stream {
  public:
    // Goes on from `state` with the prompt's tokens. A state without tokens reads the token that
    // begins a document first, where the file has one and the prompt doesn't begin with it. Throws
    // `UsageError` where an option is out of range or the text would not fit the context.
    Stream(const Model &model, State state, const std::vector<int32_t> &prompt,
           const GenerateOptions &options);

    bool done() const { return finish_ != Finish::none; }
    Finish finish() const { return finish_; }
    // Of the text so far; those of which only a stop text is made are left out.
    const std::vector<int32_t> &tokens() const { return tokens_; }
    // Of each token, by the logits before sampling options; empty unless the options ask for it.
    const std::vector<double> &log_probabilities() const { return log_probabilities_; }
    // The likeliest tokens in the place of token i of the text, as many as the options ask for.
    std::span<const TokenLogProbability> likeliest(size_t i) const {
        return std::span(likeliest_).subspan(i * n_likeliest_, n_likeliest_);
    }
    // Of <|endoftext|>, where it ended the text; its likeliest tokens are those of place
    // tokens().size().
    std::optional<double> end_log_probability() const { return end_log_probability_; }
    State &state() { return state_; }

    // What is to be read before the next token can be chosen: the prompt, or the last token.
    std::span<const int32_t> pending() const { return std::span(pending_).subspan(n_read_); }
    void mark_read(size_t n) { n_read_ += n; }  // `state` has read the first n of them
    // Chooses the next token from logits (vocab_size), which are changed; returns ready text. An
    // error (`Sampler::sample`) ends the text.
    std::string choose(float *logits);
    std::exception_ptr error() const { return error_; }  // null unless there was one

  private:
    void cut_tokens();

    const Model &model_;
    State state_;
    GenerateOptions options_;
    Sampler sampler_;
    TextStream text_;
    Finish finish_ = Finish::none;
    std::exception_ptr error_;
    std::vector<int32_t> pending_, tokens_;  // to be read; of the text
    size_t n_read_ = 0;   // of the pending ones
    size_t written_ = 0;  // bytes of the text that `choose` gave
    std::vector<double> log_probabilities_;
    std::optional<double> end_log_probability_;
    std::vector<TokenLogProbability> likeliest_;  // n_likeliest_ a token
    size_t n_likeliest_ = 0;
    std::vector<float> before_;  // logits before sampling options
};

// Advances a stream that isn't done by one token, and reads its prompt before; returns its ready
// text. `Batch` advances several.
std::string step(Session &session, Stream &stream);

}  // namespace itera
