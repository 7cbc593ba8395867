// The parts of the Python module `itera_lite._engine`, each called once by bindings.cc.
#pragma once

#include <string_view>
#include <vector>

#include <nanobind/nanobind.h>

#include "text/tokenizer.h"

namespace itera {

void bind_text(nanobind::module_ &m);   // Tokenizer, Sampler, log_probability
void bind_model(nanobind::module_ &m);  // Model, State, Stream, Score and what measures them

inline nanobind::bytes to_bytes(std::string_view text) {
    return nanobind::bytes(text.data(), text.size());
}
inline std::string_view view(const nanobind::bytes &bytes) {
    return {bytes.c_str(), bytes.size()};
}

inline std::vector<int32_t> encode(const Tokenizer &tokenizer, const nanobind::bytes &text) {
    const std::string_view given = view(text);
    const nanobind::gil_scoped_release release;
    return tokenizer.encode(given);
}

}  // namespace itera
