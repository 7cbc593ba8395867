// What itera-run is asked to do.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "run/generate.h"
#include "model/model.h"
#include "run/score.h"

namespace itera {

extern const char *const kRunHelp;

struct RunOptions {
    std::string model, prompt, score;
    bool bench = false, lines = false, quiet = false;
    bool help = false, version = false, check = false;  // instead of all else, without a model
    // The file's advice is taken where nothing is given.
    std::optional<float> temperature, top_p, min_p, repetition_penalty;
    std::optional<int32_t> top_k;
    std::optional<uint64_t> seed;
    LoadOptions load;
    GenerateOptions generate;
    ScoreOptions scoring;
};

// A command line that can't be meant: the help is worth a look.
struct WrongUse : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Throws `WrongUse`.
RunOptions parse_options(int argc, char **argv);

}  // namespace itera
