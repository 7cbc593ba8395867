// What itera-run is asked to do.
#pragma once

#include <stdexcept>
#include <string>

#include "generate.h"
#include "model.h"
#include "score.h"

namespace itera {

extern const char *const kRunHelp;

struct RunOptions {
    std::string model, prompt, score;
    bool bench = false, lines = false, quiet = false;
    bool temperature = false, top_k = false, top_p = false, seed = false;  // whether given
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
