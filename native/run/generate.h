// Text from a model, token by token: one stream, or several at once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/session.h"
#include "model/state.h"
#include "text/sampler.h"
#include "text/text_stream.h"

namespace itera {

enum class Finish { none, length, stop };

struct GenerateOptions {
    int32_t max_tokens = 200;
    SamplerOptions sampler;
    std::vector<std::string> stops;
    bool log_probabilities = false;
    bool ignore_end = false;  // <|endoftext|> is never chosen (benchmarks)
};

// One text that is being written.
class Stream {
  public:
    // Goes on from `state` with the prompt's tokens. A state without tokens reads the token that
    // begins a document first, where the file has one. Throws `UsageError` where an option is out
    // of range or the text would not fit the context.
    Stream(const Model &model, State state, const std::vector<int32_t> &prompt,
           const GenerateOptions &options);

    bool done() const { return finish_ != Finish::none; }
    Finish finish() const { return finish_; }
    // Of the text so far; those of which only a stop text is made are left out.
    const std::vector<int32_t> &tokens() const { return tokens_; }
    // Of each token, by the logits before sampling options; empty unless the options ask for it.
    const std::vector<float> &log_probabilities() const { return log_probabilities_; }
    State &state() { return state_; }

    // Reads all pending tokens but the last, in passes of the session's size.
    void read_prompt(Session &session);
    // The pending token that the next one is chosen after.
    Row row() { return {pending_.back(), &state_}; }
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
    std::vector<int32_t> pending_, tokens_;  // to be read; of the text
    size_t written_ = 0;  // bytes of the text that `choose` gave
    std::vector<float> log_probabilities_;
    std::vector<float> before_;  // logits before sampling options
};

// Advances every stream that isn't done by one token; pieces[i] gets the ready text of stream i.
void step(Session &session, const std::vector<Stream *> &streams, std::vector<std::string> &pieces);
// The same for one stream, which isn't done; returns its ready text.
std::string step(Session &session, Stream &stream);

}  // namespace itera
