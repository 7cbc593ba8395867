// Binds the model: loading, states, streams of text, logits, scores, completions.
#include "python/bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "measure/bandwidth.h"
#include "measure/profile.h"
#include "model/model.h"
#include "model/session.h"
#include "model/state.h"
#include "run/batch.h"
#include "run/complete.h"
#include "run/generate.h"
#include "run/score.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace itera {
namespace {

constexpr uint32_t kRows = 64;  // tokens of a prompt read in one pass
constexpr int kStepsBetweenSignals = 64;  // between checks for Ctrl-C

using Ids = std::vector<int32_t>;
using Floats = nb::ndarray<nb::numpy, float>;

// A numpy array that owns its memory.
Floats array(std::unique_ptr<float[]> data, std::initializer_list<size_t> shape) {
    float *raw = data.release();
    nb::capsule owner(raw, [](void *p) noexcept { delete[] static_cast<float *>(p); });
    return Floats(raw, shape, owner);
}

void check_signals() {
    const nb::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals()) throw nb::python_error();
}

// Locks a state or a stream for one thread at a time. The global lock is released first: the owner
// of the mutex may be waiting for it. Recursive, because a signal handler may use the object that
// its own thread works on.
using Mutex = std::recursive_mutex;
class Turn {
  public:
    explicit Turn(Mutex &mutex) : lock_(mutex) {}

  private:
    nb::gil_scoped_release release_;
    std::lock_guard<Mutex> lock_;
};

Model load(const std::string &path, uint32_t context) {
    const nb::gil_scoped_release release;
    return Model::load(path, context);
}

// A state. It keeps its model alive, and nothing else: no state or stream that it is a copy of.
struct PythonState {
    PythonState(State &&given, nb::object of) : model(std::move(of)), state(std::move(given)) {}
    nb::object model;
    State state;
    mutable Mutex mutex;
};

// A copy of a state that the mutex guards. Whatever throws, Python's objects are touched with the
// global lock held.
PythonState *fork(const State &state, Mutex &mutex, nb::object model) {
    const auto copy = [&] {
        const Turn turn(mutex);
        return state.fork();
    };
    return new PythonState(copy(), std::move(model));
}

// Reads ids on from the state. Returns the logits of every position (`all`) or of the last one.
// `begin` puts the token that begins a document in front where the state is empty.
Floats read(const Model &model, PythonState &python, Ids ids, bool all, bool begin) {
    State &state = python.state;
    state.check_model(model);
    const size_t vocab = model.config.vocab_size;
    std::unique_ptr<float[]> out;
    {
        const Turn turn(python.mutex);
        if (begin && !state.length() && model.tokenizer.bos() >= 0)
            ids.insert(ids.begin(), model.tokenizer.bos());
        if (ids.empty()) throw UsageError("no tokens: expected at least one");
        if (state.length() + ids.size() > state.context())
            throw UsageError(std::to_string(state.length() + ids.size()) +
                             " tokens: there is room for " + std::to_string(state.context()) +
                             ". Load with a larger context");
        const size_t first = all ? 0 : ids.size() - 1;  // whose logits are returned
        out.reset(new float[(ids.size() - first) * vocab]);
        Session session(model, std::min<uint32_t>(kRows, uint32_t(ids.size())));
        session.read(state, ids, [&](size_t at, uint32_t n) {
            if (at + n <= first) return;
            session.logits(all ? 0 : n - 1, n, [&](uint32_t row, const float *logits) {
                std::copy_n(logits, vocab, out.get() + (at + row - first) * vocab);
            });
        });
    }
    if (all) return array(std::move(out), {ids.size(), vocab});
    return array(std::move(out), {vocab});
}

const char *reason(const Stream &stream) {
    switch (stream.finish()) {
    case Finish::length: return "length";
    case Finish::stop: return "stop";
    case Finish::none:
    case Finish::failed: break;
    }
    return "";
}

// The message of the error that ended a stream; empty where there was none.
std::string error_message(const Stream &stream) {
    if (!stream.error()) return {};
    try {
        std::rethrow_exception(stream.error());
    } catch (const std::exception &error) {
        return error.what();
    }
}

using Likeliest = std::vector<TokenLogProbability>;

// The likeliest tokens in the place of each of the text; nothing where they weren't asked for.
std::vector<Likeliest> likeliest(const Stream &stream) {
    std::vector<Likeliest> out;
    for (size_t i = 0; i < stream.tokens().size() && !stream.likeliest(i).empty(); i++)
        out.emplace_back(stream.likeliest(i).begin(), stream.likeliest(i).end());
    return out;
}

// The log-probability of the end of the document and the likeliest tokens in its place, where it
// ended the text.
std::optional<std::pair<double, Likeliest>> end_of(const Stream &stream) {
    if (!stream.end_log_probability()) return {};
    const auto top = stream.likeliest(stream.tokens().size());
    return std::pair(*stream.end_log_probability(), Likeliest(top.begin(), top.end()));
}

// A stream, with the session that advances it where it is advanced alone.
struct PythonStream {
    PythonStream(const Model &model, State state, const Ids &prompt,
                 const GenerateOptions &options)
        : model(model), rows(std::clamp<uint32_t>(uint32_t(prompt.size()), 1, kRows)),
          stream(model, std::move(state), prompt, options) {}
    std::string step() {
        if (!session) session.emplace(model, rows);
        return itera::step(*session, stream);
    }
    const Model &model;
    const uint32_t rows;
    std::optional<Session> session;
    Stream stream;
    mutable Mutex mutex;
};

PythonStream *start(const Model &model, const PythonState *from, const Ids &prompt,
                    int32_t max_tokens, float temperature, int32_t top_k, float top_p, float min_p,
                    float repetition_penalty, int32_t repetition_window, uint64_t seed,
                    const std::unordered_map<int32_t, float> &logit_bias,
                    const std::vector<nb::bytes> &stop, bool log_probabilities, bool ignore_end,
                    float presence_penalty, float frequency_penalty,
                    uint32_t top_log_probabilities) {
    GenerateOptions options;
    options.max_tokens = max_tokens;
    options.sampler = {.temperature = temperature,
                       .top_k = top_k,
                       .top_p = top_p,
                       .min_p = min_p,
                       .repetition_penalty = repetition_penalty,
                       .repetition_window = repetition_window,
                       .presence_penalty = presence_penalty,
                       .frequency_penalty = frequency_penalty,
                       .seed = seed,
                       .logit_bias = {logit_bias.begin(), logit_bias.end()}};
    for (const nb::bytes &text : stop) options.stops.emplace_back(view(text));
    options.log_probabilities = log_probabilities;
    options.ignore_end = ignore_end;
    options.top_log_probabilities = top_log_probabilities;
    if (!from) return new PythonStream(model, State(model), prompt, options);
    const Turn turn(from->mutex);
    return new PythonStream(model, from->state.fork(), prompt, options);
}

// A property of a stream, read between two steps.
template <class Get> auto between_steps(const PythonStream &self, Get get) {
    const Turn turn(self.mutex);
    return get(self.stream);
}

// Advances a stream by one token, unless it is done; returns its ready bytes.
nb::bytes next(PythonStream &self) {
    std::string piece;
    {
        const Turn turn(self.mutex);
        if (!self.stream.done()) piece = self.step();
    }
    return to_bytes(piece);
}

// Several streams of one model, locked in the same order by every thread, so that no two wait for
// each other.
struct LockedStreams {
    explicit LockedStreams(const std::vector<PythonStream *> &python) {
        std::vector<PythonStream *> sorted = python;
        std::sort(sorted.begin(), sorted.end(), std::less<>());
        if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
            throw UsageError("one stream twice: expected several, each once");
        for (PythonStream *each : sorted) locks.emplace_back(each->mutex);
        for (PythonStream *each : python) {
            if (&each->model != &python[0]->model)
                throw UsageError("streams of several models: expected one model");
            streams.push_back(&each->stream);
        }
    }
    std::vector<std::unique_lock<Mutex>> locks;
    std::vector<Stream *> streams;
};

// Holds the streams: while they advance without the global lock, another thread may take them out
// of its list. A sequence that makes its items as it is read doesn't hold them either.
std::vector<nb::object> held_streams(const std::vector<PythonStream *> &python) {
    std::vector<nb::object> held;
    for (const PythonStream *each : python) {
        if (each) held.push_back(nb::find(*each));
        if (!each || !held.back()) throw UsageError("no stream: expected what `stream` gives");
    }
    return held;
}

std::vector<nb::bytes> all_bytes(const std::vector<std::string> &texts) {
    std::vector<nb::bytes> out;
    for (const std::string &text : texts) out.push_back(to_bytes(text));
    return out;
}

// Advances all streams to their ends together; the text of each.
std::vector<nb::bytes> finish(const std::vector<PythonStream *> &python) {
    std::vector<std::string> texts(python.size()), pieces(1);
    const std::vector<nb::object> held = held_streams(python);
    if (!python.empty()) {
        const nb::gil_scoped_release release;
        const LockedStreams locked(python);
        std::optional<Batch> batch;
        if (python.size() > 1) batch.emplace(python[0]->model, kRows);
        const auto done = [](const Stream *s) { return s->done(); };
        for (int i = 1; !std::all_of(locked.streams.begin(), locked.streams.end(), done); i++) {
            if (batch)
                batch->step(locked.streams, pieces);
            else
                pieces[0] = python[0]->step();
            for (size_t s = 0; s < texts.size(); s++) texts[s] += pieces[s];
            if (i % kStepsBetweenSignals == 0) check_signals();
        }
        for (const Stream *stream : locked.streams)
            if (stream->error()) std::rethrow_exception(stream->error());
    }
    return all_bytes(texts);
}

struct PythonBatch {
    PythonBatch(const Model &model, uint32_t max_rows) : batch(model, max_rows) {}
    Batch batch;
    std::vector<std::string> pieces;
    Mutex mutex;
};

// Steps until the time is over, at least once, or until all streams are done, or one where
// `until_one` is true: many tokens for one turn of the global lock. The joined pieces, and which
// streams are done.
std::pair<std::vector<nb::bytes>, std::vector<bool>>
run_batch(PythonBatch &self, const std::vector<PythonStream *> &python, double seconds,
          bool until_one) {
    using Clock = std::chrono::steady_clock;
    std::vector<std::string> texts(python.size());
    std::vector<bool> done(python.size());
    const std::vector<nb::object> held = held_streams(python);
    {
        const Turn turn(self.mutex);
        const LockedStreams locked(python);
        if (!python.empty() && &python[0]->model != &self.batch.model())
            throw UsageError("streams of another model: expected those of the batch's own");
        const Clock::time_point begin = Clock::now();
        size_t n_done = 0;
        while (n_done < python.size()) {
            self.batch.step(locked.streams, self.pieces);
            n_done = 0;
            for (size_t i = 0; i < texts.size(); i++) {
                texts[i] += self.pieces[i];
                done[i] = locked.streams[i]->done();
                n_done += done[i];
            }
            if (until_one && n_done) break;
            if (std::chrono::duration<double>(Clock::now() - begin).count() >= seconds) break;
        }
    }
    return {all_bytes(texts), std::move(done)};
}

std::vector<nb::bytes> step_batch(PythonBatch &self, const std::vector<PythonStream *> &python) {
    return run_batch(self, python, 0, false).first;
}

std::pair<std::vector<double>, std::vector<Likeliest>>
token_scores(const Model &model, PythonState &python, const Ids &ids, uint32_t top) {
    python.state.check_model(model);
    TokenScores scores;
    {
        const Turn turn(python.mutex);
        scores = score_tokens(model, python.state, ids, top, check_signals);
    }
    const size_t n = scores.log_probabilities.size();
    std::vector<Likeliest> each(n);
    const size_t size = n ? scores.likeliest.size() / n : 0;
    for (size_t i = 0; i < n; i++)
        each[i].assign(scores.likeliest.begin() + long(i * size),
                       scores.likeliest.begin() + long((i + 1) * size));
    return {std::move(scores.log_probabilities), std::move(each)};
}

struct PythonCompleter {
    explicit PythonCompleter(const Model &model) : completer(model) {}
    Completer completer;
    Mutex mutex;
};

std::vector<std::pair<nb::bytes, double>>
complete(PythonCompleter &self, const nb::bytes &prefix, uint32_t k, bool lines,
         std::optional<uint32_t> width, std::optional<uint32_t> depth,
         std::optional<double> least) {
    CompletionSearch search = lines ? CompletionSearch::lines(k) : CompletionSearch::words(k);
    search.width = width.value_or(search.width);
    search.depth = depth.value_or(search.depth);
    search.least = least.value_or(search.least);
    const std::string_view text = view(prefix);
    std::vector<Completion> found;
    {
        const Turn turn(self.mutex);
        found = self.completer.complete(text, k, lines, search);
    }
    std::vector<std::pair<nb::bytes, double>> out;
    for (const Completion &one : found) out.emplace_back(to_bytes(one.text), one.probability);
    return out;
}

std::vector<Score> score_texts(const Model &model, const std::vector<nb::bytes> &texts,
                               uint32_t window, uint32_t threads, bool log_probabilities,
                               bool end, bool entropies) {
    std::vector<std::string_view> views;
    for (const nb::bytes &text : texts) views.push_back(view(text));
    const nb::gil_scoped_release release;
    return score(model, views, {window, threads, log_probabilities, entropies, end},
                 [](uint64_t) { check_signals(); });
}

nb::dict profile_dict(const Model &model, const Ids &prompt, uint32_t tokens, uint32_t passes) {
    std::vector<std::pair<const char *, double>> parts;
    {
        const nb::gil_scoped_release release;
        parts = profile(model, prompt, tokens, passes);
    }
    nb::dict out;
    for (const auto &[name, seconds] : parts) out[name] = seconds;
    return out;
}

void bind_state(nb::module_ &m) {
    nb::class_<PythonState>(m, "State", "What a model keeps of the tokens of one text.")
        .def_prop_ro("length",
                     [](const PythonState &self) {
                         const Turn turn(self.mutex);
                         return self.state.length();
                     },
                     "Tokens read.")
        .def_prop_ro("context", [](const PythonState &self) { return self.state.context(); },
                     "Tokens that there is room for.")
        .def_prop_ro("bytes",
                     [](const PythonState &self) {
                         const Turn turn(self.mutex);
                         return self.state.bytes();
                     },
                     "Bytes of memory in use, in whole pages.")
        .def("fork",
             [](const PythonState &self) { return fork(self.state, self.mutex, self.model); },
             nb::rv_policy::take_ownership)
        .def("save", [](const PythonState &self) {
            std::string bytes;
            {
                const Turn turn(self.mutex);
                bytes = self.state.save();
            }
            return to_bytes(bytes);
        });
}

void bind_stream(nb::module_ &m) {
    nb::class_<PythonStream>(m, "Stream", "A text that is being written.")
        .def("next", &next, "Advance by one token; the bytes that are ready.")
        .def_prop_ro("done",
                     [](const PythonStream &self) {
                         return between_steps(self, [](const Stream &s) { return s.done(); });
                     })
        .def_prop_ro("finish_reason",
                     [](const PythonStream &self) { return between_steps(self, reason); })
        .def_prop_ro("tokens",
                     [](const PythonStream &self) {
                         return between_steps(self,
                                              [](const Stream &s) { return Ids(s.tokens()); });
                     })
        .def_prop_ro("log_probabilities",
                     [](const PythonStream &self) {
                         return between_steps(self, [](const Stream &s) {
                             return std::vector<double>(s.log_probabilities());
                         });
                     })
        .def_prop_ro("top_log_probabilities",
                     [](const PythonStream &self) { return between_steps(self, likeliest); })
        .def_prop_ro("end",
                     [](const PythonStream &self) { return between_steps(self, end_of); },
                     "Log-probability of the end of the document, and the likeliest tokens.")
        .def_prop_ro("error",
                     [](const PythonStream &self) { return between_steps(self, error_message); },
                     "Why a stream of a batch ended, where an error ended it.")
        .def("state",
             [](PythonStream &self) {
                 return fork(self.stream.state(), self.mutex, nb::find(self.model));
             },
             nb::rv_policy::take_ownership);
    m.def("finish", &finish, "streams"_a, "Advance all streams to their ends together.");
    nb::class_<PythonBatch>(m, "Batch", "Several texts that are written together.")
        .def(nb::init<const Model &, uint32_t>(), "model"_a, "max_rows"_a, nb::keep_alive<1, 2>())
        .def("step", &step_batch, "streams"_a,
             "Advance each stream that isn't done by one token; the bytes that are ready of each.")
        .def("run", &run_batch, "streams"_a, "seconds"_a, "until_one"_a = false,
             "Step until the time is over or all are done; the bytes of each, and which are done.");
    nb::class_<PythonCompleter>(m, "Completer", "Completes a text while it is typed.")
        .def(nb::init<const Model &>(), "model"_a, nb::keep_alive<1, 2>())
        .def("complete", &complete, "prefix"_a, "k"_a, "lines"_a, nb::kw_only(),
             "width"_a = nb::none(), "depth"_a = nb::none(), "least"_a = nb::none(),
             "The likeliest (text, probability) that go on; the options are of the search.");
}

void bind_score(nb::module_ &m) {
    nb::class_<Score>(m, "Score", "How probable a model finds a text.")
        .def_ro("bytes", &Score::bytes)
        .def_ro("tokens", &Score::tokens)
        .def_ro("nats", &Score::nats)
        .def_ro("log_probabilities", &Score::log_probabilities)
        .def_ro("entropies", &Score::entropies)
        .def_prop_ro("bits_per_byte", &Score::bits_per_byte)
        .def_prop_ro("surprise", &Score::surprise);
}

// Properties of the model and its file.
void bind_facts(nb::class_<Model> &model) {
    model.def_prop_ro("architecture", [](const Model &self) { return self.config.architecture; })
        .def_ro("name", &Model::name)
        .def_prop_ro("unit",
                     [](const Model &self) { return nb::bytes(self.unit.data(), self.unit.size()); })
        .def_prop_ro("isa", [](const Model &self) { return self.kernels.name; })
        .def_prop_ro("vocab_size", [](const Model &self) { return self.config.vocab_size; })
        .def_prop_ro("n_layers", [](const Model &self) { return self.config.n_layers; })
        .def_prop_ro("d_model", [](const Model &self) { return self.config.d_model; })
        .def_prop_ro("context", [](const Model &self) { return self.config.context; })
        .def_prop_ro("eot", [](const Model &self) { return self.tokenizer.eot(); })
        .def_prop_ro("bos", [](const Model &self) { return self.tokenizer.bos(); })
        .def_ro("notes", &Model::notes)
        .def_ro("parameters", &Model::parameters)
        .def_ro("file_bytes", &Model::file_bytes)
        .def_prop_ro("sampling",
                     [](const Model &self) {
                         const SamplerOptions &s = self.sampling;
                         nb::dict d;
                         d["temperature"] = s.temperature;
                         d["top_k"] = s.top_k;
                         d["top_p"] = s.top_p;
                         d["min_p"] = s.min_p;
                         d["repetition_penalty"] = s.repetition_penalty;
                         d["repetition_window"] = s.repetition_window;
                         return d;
                     });
}

}  // namespace

void bind_model(nb::module_ &m) {
    bind_state(m);
    bind_stream(m);
    bind_score(m);
    m.def("read_bandwidth", &read_bandwidth, "bytes"_a, "seconds"_a,
          nb::call_guard<nb::gil_scoped_release>(), "Bytes a second that one thread reads.");
    m.def("profile", &profile_dict, "model"_a, "prompt"_a, "tokens"_a, "passes"_a,
          "Seconds a decoded token by part.");
    nb::class_<Model> model(m, "Model", "A GGUF model, loaded.");
    bind_facts(model);
    model.def_static("load", &load, "path"_a, "context"_a = 0)
        .def_static("load",  // a path that is no UTF-8
                    [](const nb::bytes &path, uint32_t context) {
                        return load(std::string(view(path)), context);
                    },
                    "path"_a, "context"_a = 0)
        .def("weight_bytes_per_token", &Model::weight_bytes_per_token)
        .def("state_bytes_per_token", &Model::state_bytes_per_token, "length"_a)
        .def("encode",
             [](const Model &self, const nb::bytes &text) { return encode(self.tokenizer, text); })
        .def("decode",
             [](const Model &self, const Ids &ids) { return to_bytes(self.tokenizer.decode(ids)); })
        .def("state",
             [](const Model &self) { return new PythonState(State(self), nb::find(self)); },
             nb::rv_policy::take_ownership)
        .def("restore",
             [](const Model &self, const nb::bytes &bytes) {
                 return new PythonState(State::restore(self, view(bytes)), nb::find(self));
             },
             nb::rv_policy::take_ownership)
        .def("read", &read, "state"_a, "ids"_a, "all"_a, "begin"_a = false)
        .def("stream", &start,
             "state"_a.none(), "prompt"_a, nb::kw_only(), "max_tokens"_a, "temperature"_a,
             "top_k"_a, "top_p"_a, "min_p"_a, "repetition_penalty"_a, "repetition_window"_a,
             "seed"_a, "logit_bias"_a, "stop"_a, "log_probabilities"_a, "ignore_end"_a,
             "presence_penalty"_a = 0.0f, "frequency_penalty"_a = 0.0f,
             "top_log_probabilities"_a = 0,
             nb::rv_policy::take_ownership, nb::keep_alive<0, 1>())
        .def("score", &score_texts, "texts"_a, nb::kw_only(), "window"_a, "threads"_a,
             "log_probabilities"_a, "end"_a, "entropies"_a = false)
        .def("token_scores", &token_scores, "state"_a, "ids"_a, "top"_a);
}

}  // namespace itera
