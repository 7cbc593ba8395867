// The command line of itera-run.
#pragma once

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "run/generate.h"
#include "run/score.h"

namespace itera {

extern const char *const kRunHelp;

struct RunOptions {
    std::string model, prompt, score;
    bool bench = false, lines = false, quiet = false;
    bool help = false, version = false, check = false;  // instead of all else, without a model
    uint32_t context = 0;
    // An option that isn't given is as the model's file advises.
    std::optional<float> temperature, top_p, min_p, repetition_penalty;
    float presence_penalty = 0.0f, frequency_penalty = 0.0f;
    std::optional<int32_t> top_k;
    std::optional<uint64_t> seed;
    GenerateOptions generate;
    ScoreOptions scoring;
};

// A command line that is no valid one; the message is shown with a reference to the help.
struct WrongUse : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Throws `WrongUse`.
RunOptions parse_options(int argc, char **argv);

}  // namespace itera
