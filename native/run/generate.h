// Text from a model, token by token: one stream, or several at once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "text/sampler.h"
#include "model/session.h"
#include "model/state.h"
#include "text/text_stream.h"

namespace itera {

enum class Finish { none, length, stop };

struct GenerateOptions {
    int32_t max_tokens = 200;
    SamplerOptions sampler;
    std::vector<std::string> stops;
    bool log_probabilities = false;
    bool ignore_end = false;  // <|endoftext|> doesn't end the text (benchmarks)
};

// One text that is being written.
class Stream {
  public:
    // Goes on from `state` after the prompt's tokens; a fresh state gets the token
    // that begins a document first, where the file has one.
    // Throws `UsageError` where an option is out of range or the text would not fit the context.
    Stream(const Model &model, State state, const std::vector<int32_t> &prompt,
           const GenerateOptions &options);

    bool done() const { return finish_ != Finish::none; }
    Finish finish() const { return finish_; }
    // Those that the text is made of: what made only a stop text isn't among them.
    const std::vector<int32_t> &tokens() const { return tokens_; }
    // Of each token, where asked for: its log-probability before sampling options.
    const std::vector<float> &log_probabilities() const { return log_probabilities_; }
    State &state() { return state_; }

    // Tokens that are still to be read before the next one can be chosen.
    const std::vector<int32_t> &pending() const { return pending_; }
    void read(size_t n) { pending_.erase(pending_.begin(), pending_.begin() + long(n)); }
    // Chooses the next token from logits (vocab_size), which are changed; returns ready text.
    std::string choose(float *logits);

  private:
    void cut_tokens();

    const Model &model_;
    State state_;
    GenerateOptions options_;
    Sampler sampler_;
    TextStream text_;
    Finish finish_ = Finish::none;
    std::vector<int32_t> pending_, tokens_;
    size_t written_ = 0;  // bytes of the text that `choose` gave
    std::vector<float> log_probabilities_;
    std::vector<float> before_;  // logits as the model gave them
};

// Advances every stream that isn't done by one token; pieces[i] gets the ready text of stream i.
// Prompts are read in blocks of the session's size first.
void step(Session &session, std::vector<Stream *> &streams, std::vector<std::string> &pieces);

}  // namespace itera
