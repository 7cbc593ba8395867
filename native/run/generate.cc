#include "run/generate.h"

#include <algorithm>
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
    const int32_t bos = model.tokenizer.bos();
    if (state_.length() == 0 && bos >= 0 && (prompt.empty() || prompt[0] != bos))
        pending_.push_back(bos);
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
    for (const int32_t token : prompt) sampler_.accept(token, false);
    tokens_.reserve(size_t(options.max_tokens));
    n_likeliest_ = std::min(options.top_log_probabilities, model.config.vocab_size);
    options_.log_probabilities |= n_likeliest_ > 0;
    if (options_.log_probabilities) {
        log_probabilities_.reserve(size_t(options.max_tokens));
        likeliest_.reserve(size_t(options.max_tokens) * n_likeliest_ + 1);
        before_.reserve(model.config.vocab_size);
    }
}

std::string Stream::choose(float *logits) try {
    const auto vocab = size_t(model_.config.vocab_size);
    if (options_.log_probabilities) before_.assign(logits, logits + vocab);
    if (options_.ignore_end) logits[model_.tokenizer.eot()] = -1e30f;
    const int32_t token = sampler_.sample({logits, vocab});
    if (token == model_.tokenizer.eot()) {
        finish_ = Finish::stop;
        if (options_.log_probabilities) {
            const float log_sum = model_.kernels.log_sum_exp(before_.data(), vocab);
            end_log_probability_ = log_probability(before_[size_t(token)], log_sum);
            append_likeliest(before_, log_sum, n_likeliest_, likeliest_);
        }
        return text_.finish();
    }
    tokens_.push_back(token);
    if (options_.log_probabilities) {
        const float log_sum = model_.kernels.log_sum_exp(before_.data(), vocab);
        log_probabilities_.push_back(log_probability(before_[size_t(token)], log_sum));
        append_likeliest(before_, log_sum, n_likeliest_, likeliest_);
    }
    sampler_.accept(token);
    pending_.assign(1, token);
    n_read_ = 0;
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
} catch (...) {
    finish_ = Finish::failed;
    error_ = std::current_exception();
    throw;
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
        likeliest_.resize(tokens_.size() * n_likeliest_);
    }
}

std::string step(Session &session, Stream &stream) {
    std::string piece;
    session.read(stream.state(), stream.pending(), [&](size_t, uint32_t n) {
        stream.mark_read(n);
        if (!stream.pending().empty()) return;
        session.logits(n - 1, n, [&](uint32_t, float *logits) { piece = stream.choose(logits); });
    });
    return piece;
}

}  // namespace itera
