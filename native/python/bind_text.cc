// Binds the tokenizer, the sampler and the softmax for tests; the package works with `Model`.
#include "python/bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <unordered_map>

#include "gguf/gguf.h"
#include "kernels/kernels.h"
#include "text/sampler.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace itera {
namespace {

using Logits = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// The softmax of the logits at the token, as a logarithm: shows how exact the exponentials are.
double log_probability(const Logits &array, int32_t token) {
    const std::span<const float> logits(array.data(), array.size());
    if (token < 0 || size_t(token) >= logits.size())
        throw UsageError("token " + std::to_string(token) + " of " +
                         std::to_string(logits.size()) + " logits: expected an id that has one");
    const float max = Sampler::greatest(logits);
    std::vector<float> weights(logits.size() + kLanes);
    const double mass = kernels().exponentials(logits.data(), logits.size(), max, 1, weights.data());
    return double{logits[size_t(token)]} - double{max} - std::log(mass);
}

}  // namespace

void bind_text(nb::module_ &m) {
    nb::class_<Tokenizer>(m, "Tokenizer", "The byte-level BPE tokenizer inside a GGUF file.")
        .def("__init__",
             [](Tokenizer *self, const std::string &path) {
                 new (self) Tokenizer(naming(path, [&] { return Tokenizer(Gguf(path)); }));
             },
             "path"_a)
        .def("encode", &encode, "text"_a, "Ids of the bytes, without <|endoftext|>.")
        .def("decode",
             [](const Tokenizer &self, const std::vector<int32_t> &ids) {
                 return to_bytes(self.decode(ids));
             },
             "ids"_a, "The exact bytes of the ids; <|endoftext|> gives none.")
        .def_prop_ro("eot", &Tokenizer::eot, "Id of <|endoftext|>, which ends every document.")
        .def_prop_ro("bos", &Tokenizer::bos, "Begins a document; -1 where nothing does.")
        .def_prop_ro("size", &Tokenizer::size, "Number of ids.");

    nb::class_<Sampler>(m, "Sampler", "Picks the next token from logits.")
        .def("__init__",
             [](Sampler *self, int32_t vocab_size, float temperature, int32_t top_k, float top_p,
                float min_p, float repetition_penalty, int32_t repetition_window,
                float presence_penalty, float frequency_penalty, uint64_t seed,
                const std::unordered_map<int32_t, float> &logit_bias) {
                 new (self) Sampler({temperature, top_k, top_p, min_p, repetition_penalty,
                                     repetition_window, presence_penalty, frequency_penalty, seed,
                                     {logit_bias.begin(), logit_bias.end()}},
                                    vocab_size);
             },
             "vocab_size"_a, nb::kw_only(), "temperature"_a = SamplerOptions{}.temperature,
             "top_k"_a = SamplerOptions{}.top_k, "top_p"_a = SamplerOptions{}.top_p,
             "min_p"_a = SamplerOptions{}.min_p,
             "repetition_penalty"_a = SamplerOptions{}.repetition_penalty,
             "repetition_window"_a = SamplerOptions{}.repetition_window,
             "presence_penalty"_a = SamplerOptions{}.presence_penalty,
             "frequency_penalty"_a = SamplerOptions{}.frequency_penalty,
             "seed"_a = SamplerOptions{}.seed,
             "logit_bias"_a = std::unordered_map<int32_t, float>{})
        .def("sample",
             [](Sampler &self, const Logits &logits) {
                 std::vector<float> copy(logits.data(), logits.data() + logits.size());
                 return self.sample(copy);
             },
             "logits"_a, "The next token; the logits (vocab_size,) stay as they are.")
        .def("accept", &Sampler::accept, "token"_a, "generated"_a = true,
             "Adds a token of the prompt or of the text to the history.");

    m.def("log_probability", &log_probability, "logits"_a, "token"_a,
          "Natural logarithm of the softmax of the logits at the token.");
}

}  // namespace itera
