// The metadata keys that this engine knows. A key that may change what a model computes is used or
// refused, never skipped.
#pragma once

#include <string>
#include <vector>

#include "gguf/gguf.h"

namespace itera {

// Throws `Error` where the file is a part of a split model, or no model at all.
void check_whole_model(const Gguf &file);

// Throws `Error` that names a key under `architecture`'s prefix that the engine doesn't know, or
// whose value it doesn't support. A known key that llama.cpp leaves out for this architecture is
// left out here too; `notes` gets a line that says so.
void check_architecture_keys(const Gguf &file, const std::string &architecture,
                             std::vector<std::string> &notes);

// The same for the keys under `tokenizer.`.
void check_tokenizer_keys(const Gguf &file);

}  // namespace itera
