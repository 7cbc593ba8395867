// The sampling that a file advises (the keys `general.sampling.*`), as llama.cpp reads them.
#pragma once

#include <string>
#include <vector>

#include "gguf/gguf.h"
#include "text/sampler.h"

namespace itera {

// A value that the file lacks is the default of `SamplerOptions`. `notes` gets a line for each
// thing that the engine can't do. Throws `Error` for a value that isn't a number.
SamplerOptions read_sampling(const Gguf &file, std::vector<std::string> &notes);

}  // namespace itera
