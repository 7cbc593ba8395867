// Python's face of what is text: the tokenizer, the sampler, log-probabilities.
#include "python/bind_text.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unordered_map.h>
#include <nanobind/stl/vector.h>

#include <unordered_map>

#include "gguf/gguf.h"
#include "text/sampler.h"
#include "text/tokenizer.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace itera {
namespace {

using Logits = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::span<const float> view(const Logits &logits) { return {logits.data(), logits.size()}; }

Tokenizer open_tokenizer(const std::string &path) {
    return naming(path, [&] { return Tokenizer(Gguf(path)); });
}

int32_t sample(Sampler &sampler, std::vector<float> logits) { return sampler.sample(logits); }

}  // namespace

void bind_text(nb::module_ &m) {
    nb::class_<Tokenizer>(m, "Tokenizer", "The byte-level BPE tokenizer inside a GGUF file.")
        .def("__init__",
             [](Tokenizer *self, const std::string &path) {
                 new (self) Tokenizer(open_tokenizer(path));
             },
             "path"_a)
        .def("encode",
             [](const Tokenizer &self, const nb::bytes &text) {
                 const std::string_view view(text.c_str(), text.size());
                 nb::gil_scoped_release release;
                 return self.encode(view);
             },
             "text"_a, "Ids of the bytes, without <|endoftext|>.")
        .def("decode",
             [](const Tokenizer &self, const std::vector<int32_t> &ids) {
                 const std::string text = self.decode(ids);
                 return nb::bytes(text.data(), text.size());
             },
             "ids"_a, "The exact bytes of the ids; <|endoftext|> gives none.")
        .def_prop_ro("eot", &Tokenizer::eot, "Id of <|endoftext|>, which ends every document.")
        .def_prop_ro("bos", &Tokenizer::bos, "Begins a document; -1 where nothing does.")
        .def_prop_ro("size", &Tokenizer::size, "Number of ids.");

    nb::class_<Sampler>(m, "Sampler", "Picks the next token from logits.")
        .def("__init__",
             [](Sampler *self, int32_t vocab_size, float temperature, int32_t top_k, float top_p,
                float min_p, float repetition_penalty, int32_t repetition_window, uint64_t seed,
                const std::unordered_map<int32_t, float> &logit_bias) {
                 new (self) Sampler({temperature, top_k, top_p, min_p, repetition_penalty,
                                     repetition_window, seed,
                                     {logit_bias.begin(), logit_bias.end()}},
                                    vocab_size);
             },
             "vocab_size"_a, nb::kw_only(), "temperature"_a = SamplerOptions{}.temperature,
             "top_k"_a = SamplerOptions{}.top_k, "top_p"_a = SamplerOptions{}.top_p,
             "min_p"_a = SamplerOptions{}.min_p,
             "repetition_penalty"_a = SamplerOptions{}.repetition_penalty,
             "repetition_window"_a = SamplerOptions{}.repetition_window,
             "seed"_a = SamplerOptions{}.seed,
             "logit_bias"_a = std::unordered_map<int32_t, float>{})
        .def("sample",
             [](Sampler &self, const Logits &logits) {
                 const auto given = view(logits);
                 return sample(self, {given.begin(), given.end()});
             },
             "logits"_a, "The next token; the logits (vocab_size,) stay as they are.")
        .def("sample", &sample, "logits"_a)
        .def("accept", &Sampler::accept, "token"_a, "Tells that the token is now in the text.");

    m.def("log_probability",
          [](const Logits &logits, int32_t token) { return log_probability(view(logits), token); },
          "logits"_a, "token"_a, "Natural logarithm of the softmax of the logits at the token.");
    m.def("log_probability",
          [](const std::vector<float> &logits, int32_t token) {
              return log_probability(logits, token);
          },
          "logits"_a, "token"_a);
}

}  // namespace itera
