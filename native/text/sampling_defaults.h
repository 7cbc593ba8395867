// The sampling that a file advises (the keys `general.sampling.*`), as llama.cpp reads them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gguf/gguf.h"

namespace itera {

struct SamplingDefaults {
    float temperature = 0.8f, top_p = 0.95f, min_p = 0, repetition_penalty = 1;
    int32_t top_k = 0, repetition_window = 64;
};

// What the file leaves open keeps the values above. `notes` gets a line for each thing that the
// engine can't do. Throws `Error` for a value that isn't a number.
SamplingDefaults read_sampling(const Gguf &file, std::vector<std::string> &notes);

}  // namespace itera
