// The shape of a model, from a file's metadata.
#pragma once

#include "gguf.h"
#include "model.h"

namespace itera {

// Reads and checks the shape. `wanted_context` 0 takes the file's own, at most 65,536. `notes` gets
// a line for each key that is left out.
Config read_config(const Gguf &file, uint32_t wanted_context, std::vector<std::string> &notes);

}  // namespace itera
