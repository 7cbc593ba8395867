#include "run/generate.h"

#include <span>
#include <utility>

namespace itera {

Stream::Stream(const Model &model, State state, const std::vector<int32_t> &prompt,
               const GenerateOptions &options)
    : model_(model), state_(std::move(state)), options_(options),
      sampler_(options.sampler, int32_t(model.config.vocab_size)), text_(options.stops) {
    state_.check_model(model);
    if (options.max_tokens < 1)
        throw UsageError("max_tokens=" + std::to_string(options.max_tokens) +
                         ": expected 1 or more");
    for (const std::string &stop : options.stops)
        if (stop.empty()) throw UsageError("an empty stop text: expected at least one character");
    if (state_.length() == 0 && model.tokenizer.bos() >= 0)
        pending_.push_back(model.tokenizer.bos());
    pending_.insert(pending_.end(), prompt.begin(), prompt.end());
    if (pending_.empty())
        throw UsageError(state_.length()
                             ? "an empty prompt after a state: expected at least one token to go "
                               "on with"
                             : "an empty prompt: expected at least one token to go on from, for "
                               "this model's file says that nothing begins a document "
                               "(tokenizer.ggml.add_bos_token)");
    const uint64_t given = uint64_t(state_.length()) + pending_.size();
    if (given + uint64_t(options.max_tokens) - 1 > state_.context())  // the last isn't read
        throw UsageError("a text of " + std::to_string(given) +
                         " tokens and max_tokens=" + std::to_string(options.max_tokens) +
                         ": there is room for " + std::to_string(state_.context()) +
                         ". Shorten the prompt, lower max_tokens, or load with a larger context");
    for (const int32_t token : prompt) sampler_.accept(token);
    tokens_.reserve(size_t(options.max_tokens));
    if (options.log_probabilities) {
        log_probabilities_.reserve(size_t(options.max_tokens));
        before_.reserve(model.config.vocab_size);
    }
    pending_.reserve(pending_.size() + 1);
}

std::string Stream::choose(float *logits) {
    const auto vocab = size_t(model_.config.vocab_size);
    float log_sum = 0;
    if (options_.log_probabilities) log_sum = model_.kernels.log_sum_exp(logits, vocab);
    if (options_.ignore_end) logits[model_.tokenizer.eot()] = -1e30f;
    if (options_.log_probabilities) before_.assign(logits, logits + vocab);
    const int32_t token = sampler_.sample({logits, vocab});
    if (token == model_.tokenizer.eot()) {
        finish_ = Finish::stop;
        return text_.finish();
    }
    tokens_.push_back(token);
    if (options_.log_probabilities)
        log_probabilities_.push_back(before_[size_t(token)] - log_sum);
    sampler_.accept(token);
    pending_.assign(1, token);
    std::string ready = text_.push(model_.tokenizer.bytes(token));
    written_ += ready.size();
    if (text_.stopped()) {
        finish_ = Finish::stop;
        cut_tokens();
    } else if (tokens_.size() == size_t(options_.max_tokens)) {
        finish_ = Finish::length;
        ready += text_.finish();
    }
    return ready;
}

// Drops the tokens after the text that was written; the last one kept may reach beyond it.
void Stream::cut_tokens() {
    size_t bytes = 0;
    for (const int32_t token : tokens_) bytes += model_.tokenizer.bytes(token).size();
    while (!tokens_.empty()) {
        bytes -= model_.tokenizer.bytes(tokens_.back()).size();
        if (bytes < written_) break;
        tokens_.pop_back();
        if (!log_probabilities_.empty()) log_probabilities_.pop_back();
    }
}

void Stream::read_prompt(Session &session) {
    if (pending_.size() < 2) return;
    session.read(state_, std::span(pending_).first(pending_.size() - 1));
    pending_.assign(1, pending_.back());
}

void step(Session &session, const std::vector<Stream *> &streams,
          std::vector<std::string> &pieces) {
    pieces.assign(streams.size(), {});
    // Kept from step to step, so that a token takes no memory.
    thread_local std::vector<Row> rows;
    thread_local std::vector<size_t> indices;  // of the rows' streams
    // Prompts first, each alone; then the last tokens of all streams together.
    for (Stream *stream : streams)
        if (!stream->done()) stream->read_prompt(session);
    for (size_t next = 0; next < streams.size();) {
        rows.clear();
        indices.clear();
        for (; next < streams.size() && rows.size() < session.max_rows(); next++)
            if (!streams[next]->done()) {
                rows.push_back(streams[next]->row());
                indices.push_back(next);
            }
        if (rows.empty()) return;
        session.forward(rows);
        session.logits(0, uint32_t(rows.size()), [&](uint32_t row, float *logits) {
            pieces[indices[row]] = streams[indices[row]]->choose(logits);
        });
    }
}

std::string step(Session &session, Stream &stream) {
    std::string piece;
    stream.read_prompt(session);
    const Row row = stream.row();
    session.forward({&row, 1});
    session.logits(0, 1, [&](uint32_t, float *logits) { piece = stream.choose(logits); });
    return piece;
}

}  // namespace itera
