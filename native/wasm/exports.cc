// The engine as WebAssembly: what itera.js calls. An instance has one model.
//
// A call gets its arguments, and gives its results, as a sequence of numbers (doubles) and texts (a
// number of bytes, then the bytes, filled up to a multiple of 8). JavaScript writes the arguments to
// the room that `arguments` makes, calls, and reads what lies at `result`.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "measure/check.h"
#include "model/model.h"
#include "model/session.h"
#include "model/state.h"
#include "run/generate.h"
#include "run/score.h"
#include "text/likeliest.h"

#define EXPORT(name) extern "C" [[clang::export_name(#name)]]

namespace itera {
namespace {

constexpr uint32_t kRows = 64;  // tokens read in one pass
// Memory for the whole context is taken at once: none is reserved here that isn't used.
constexpr uint32_t kMostContext = 8192;  // unless the caller asks for more

std::unique_ptr<std::byte[]> given;  // the arguments of the next call
std::string results;

// The arguments of this call, which are freed with it.
class Arguments {
  public:
    Arguments() : bytes_(std::move(given)), at_(bytes_.get()) {}

    double number() {
        double value;
        std::memcpy(&value, at_, sizeof value);
        at_ += sizeof value;
        return value;
    }
    float real() { return float(number()); }
    // A whole number; the nearest of 32 bits, whose range the engine checks.
    int32_t whole() { return int32_t(std::clamp(number(), double(INT32_MIN), double(INT32_MAX))); }
    uint32_t size() { return uint32_t(std::clamp(number(), 0.0, double(UINT32_MAX))); }
    uint64_t word() {  // of 64 bits: the lower half, then the upper
        const uint64_t low = size();
        return low | uint64_t{size()} << 32;
    }
    std::string_view text() {
        const size_t n = size();
        const char *start = reinterpret_cast<const char *>(at_);
        at_ += (n + 7) / 8 * 8;
        return {start, n};
    }

  private:
    std::unique_ptr<std::byte[]> bytes_;
    const std::byte *at_;
};

// The results of this call; those of the last one are forgotten.
struct Results {
    Results() { results.clear(); }
    void number(double value) {
        results.append(reinterpret_cast<const char *>(&value), sizeof value);
    }
    void text(std::string_view text) {
        number(double(text.size()));
        results += text;
        results.append((8 - text.size() % 8) % 8, '\0');
    }
    void likeliest(std::span<const TokenLogProbability> tokens) {
        number(double(tokens.size()));
        for (const auto &[id, log_probability] : tokens) {
            number(id);
            number(log_probability);
        }
    }
};

struct Written {  // a text that is being written
    Stream stream;
    uint32_t n_likeliest;
};

struct Loaded {
    explicit Loaded(Model &&given)
        : model(std::move(given)), session(model, kRows), scored(model) {}
    Model model;
    Session session;
    State scored;  // of the last text that was scored
    std::vector<std::unique_ptr<Written>> texts;
    std::vector<float> logits;  // before sampling options
};
std::unique_ptr<Loaded> loaded;

Model read_model(std::string_view bytes, uint32_t context) {
    Model model(Gguf(std::as_bytes(std::span(bytes))), context);
    if (!context) model.config.context = std::min(model.config.context, kMostContext);
    return model;
}

// Ids of a text after the token that begins a document, where the file has one.
std::vector<int32_t> begun(std::string_view text) {
    const Tokenizer &tokenizer = loaded->model.tokenizer;
    std::vector<int32_t> ids = tokenizer.encode(text);
    if (tokenizer.bos() >= 0) ids.insert(ids.begin(), tokenizer.bos());
    return ids;
}

// Calls `use(at, scores)` for windows of the ids, which score each id but the first once, as `score`
// does: `scores` are those of ids[at] and of those after it.
template <class Use> void score_windows(std::span<const int32_t> ids, uint32_t n_likeliest, Use use) {
    const size_t n = ids.size() - 1, window = loaded->model.config.context;
    for (size_t scored = 0; scored < n;) {
        const size_t end = std::min(n, scored ? scored + window - window / 2 : window);
        const size_t begin = scored ? end - window : 0;
        loaded->scored.clear();
        TokenScores scores = score_tokens(loaded->model, loaded->scored,
                                          ids.subspan(begin, end + 1 - begin), n_likeliest);
        const size_t known = scored - begin, of_one = scores.likeliest.size() / (end - begin);
        use(scored + 1, std::span(scores.log_probabilities).subspan(known),
            std::span(scores.likeliest).subspan(known * of_one), of_one);
        scored = end;
    }
}

}  // namespace

EXPORT(arguments) std::byte *arguments(size_t bytes) {
    given = std::make_unique_for_overwrite<std::byte[]>(bytes);
    return given.get();
}
EXPORT(result) const char *result() { return results.data(); }

// How many kernels differ from the portable ones, and the name of those in use.
EXPORT(check) void check() {
    const auto checks = check_kernels(kernels(), true);
    Results out;
    out.number(double(std::ranges::count_if(checks, [](const auto &c) { return !c.good(); })));
    out.text(kernels().name);
}

EXPORT(load) void load() {
    Arguments in;
    const std::string_view bytes = in.text();
    loaded = std::make_unique<Loaded>(read_model(bytes, in.size()));
    const Model &m = loaded->model;
    const SamplerOptions &s = m.sampling;
    Results out;
    out.text(m.name);
    out.text(m.config.architecture);
    out.number(double(m.parameters));
    out.number(m.config.vocab_size);
    out.number(m.config.context);
    out.number(double(m.file_bytes));
    out.number(m.tokenizer.bos());
    out.number(m.tokenizer.eot());
    for (const double option : {double(s.temperature), double(s.top_k), double(s.top_p),
                                double(s.min_p), double(s.repetition_penalty),
                                double(s.repetition_window)})
        out.number(option);
    out.number(double(m.notes.size()));
    for (const std::string &note : m.notes) out.text(note);
}

EXPORT(tokenize) void tokenize() {
    Arguments in;
    const std::vector<int32_t> ids = loaded->model.tokenizer.encode(in.text());
    Results out;
    out.number(double(ids.size()));
    for (const int32_t id : ids) out.number(id);
}

EXPORT(detokenize) void detokenize() {
    Arguments in;
    std::vector<int32_t> ids(in.size());
    for (int32_t &id : ids) id = in.whole();
    const std::string text = loaded->model.tokenizer.decode(ids);
    Results().text(text);
}

EXPORT(score) void score() {
    Arguments in;
    const std::string_view text = in.text();
    const uint32_t n_likeliest = in.size();
    const Tokenizer &tokenizer = loaded->model.tokenizer;
    std::vector<int32_t> ids = begun(text);
    const bool has_start = tokenizer.bos() >= 0;
    ids.push_back(tokenizer.eot());
    Results out;
    out.number(double(text.size()));
    out.number(double(ids.size() - has_start));
    const auto token = [&](int32_t id, double log_probability) {
        out.number(id);
        out.text(tokenizer.bytes(id));
        out.number(log_probability);
    };
    if (!has_start) {  // nothing predicts the first token
        token(ids[0], NAN);
        out.likeliest({});
    }
    score_windows(ids, n_likeliest, [&](size_t at, auto log_probabilities, auto likeliest, size_t n) {
        for (size_t i = 0; i < log_probabilities.size(); i++) {
            token(ids[at + i], log_probabilities[i]);
            out.likeliest(likeliest.subspan(i * n, n));
        }
    });
}

// The likeliest tokens after a text, of which as many are read as the context has room for.
EXPORT(top) void top() {
    Arguments in;
    const std::vector<int32_t> ids = begun(in.text());
    const uint32_t wanted = in.size(), vocab = loaded->model.config.vocab_size;
    if (ids.empty())
        throw UsageError("an empty text: expected at least one token, for this model's file says "
                         "that nothing begins a document (tokenizer.ggml.add_bos_token)");
    const size_t n = std::min<size_t>(ids.size(), loaded->model.config.context);
    std::vector<TokenLogProbability> found;
    loaded->scored.clear();
    loaded->session.read(loaded->scored, std::span(ids).last(n), [&](size_t at, uint32_t rows) {
        if (at + rows < n) return;
        loaded->session.logits(rows - 1, rows, [&](uint32_t, const float *logits) {
            append_likeliest({logits, vocab}, loaded->model.kernels.log_sum_exp(logits, vocab),
                             wanted, found);
        });
    });
    Results().likeliest(found);
}

EXPORT(start) void start() {
    Arguments in;
    const std::vector<int32_t> prompt = loaded->model.tokenizer.encode(in.text());
    GenerateOptions options;
    SamplerOptions &s = options.sampler;
    options.max_tokens = in.whole();
    s.temperature = in.real();
    s.top_k = in.whole();
    s.top_p = in.real();
    s.min_p = in.real();
    s.repetition_penalty = in.real();
    s.repetition_window = in.whole();
    s.presence_penalty = in.real();
    s.frequency_penalty = in.real();
    s.seed = in.word();
    const uint32_t n_likeliest = in.size();
    for (uint32_t left = in.size(); left > 0; left--) options.stops.emplace_back(in.text());
    auto text = std::make_unique<Written>(
        Stream(loaded->model, State(loaded->model), prompt, options), n_likeliest);
    auto &texts = loaded->texts;
    auto place = std::ranges::find_if(texts, [](const auto &each) { return !each; });
    if (place == texts.end()) place = texts.emplace(texts.end());
    *place = std::move(text);
    Results().number(double(place - texts.begin()));
}

// The next token: its id, its log-probability, the likeliest tokens in its place, how the text has
// ended (0: not yet, 1: by its length, 2: stopped), the text that is ready, and whether the token is
// the one that ends a document.
EXPORT(next) void next() {
    Arguments in;
    auto &[stream, n_likeliest] = *loaded->texts[in.size()];
    const Model &model = loaded->model;
    const size_t vocab = model.config.vocab_size;
    std::vector<float> &before = loaded->logits;
    std::string ready;
    loaded->session.read(stream.state(), stream.pending(), [&](size_t, uint32_t n) {
        stream.mark_read(n);
        if (!stream.pending().empty()) return;
        loaded->session.logits(n - 1, n, [&](uint32_t, float *logits) {
            before.assign(logits, logits + vocab);
            ready = stream.choose(logits);
        });
    });
    const bool ended = stream.pending().empty();  // the end of a document isn't read any more
    const int32_t token = ended ? model.tokenizer.eot() : stream.pending().front();
    const float log_sum = model.kernels.log_sum_exp(before.data(), vocab);
    std::vector<TokenLogProbability> found;
    append_likeliest(before, log_sum, n_likeliest, found);
    Results out;
    out.number(token);
    out.number(log_probability(before[size_t(token)], log_sum));
    out.likeliest(found);
    out.number(stream.finish() == Finish::none ? 0 : stream.finish() == Finish::length ? 1 : 2);
    out.text(ready);
    out.number(ended);
}

EXPORT(release) void release() {
    Arguments in;
    loaded->texts[in.size()].reset();
}

}  // namespace itera
