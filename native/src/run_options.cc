#include "run_options.h"

#include <charconv>
#include <string_view>
#include <system_error>
#include <utility>

namespace itera {

const char *const kRunHelp = R"(itera-run MODEL.gguf [options]

Writes text with a tiny language model (GGUF: granitehybrid or llama; F32, F16, BF16, Q8_0, Q4_0).

  -p, --prompt TEXT      text to go on from; "-" reads it from standard input
  -n, --max-tokens N     tokens to write at most (200)
  -t, --temperature X    0 always takes the most probable token (the file's advice, else 0.8)
      --top-k N          only the N most probable tokens; 0: all
      --top-p X          only the most probable tokens that together reach X
      --min-p X          only tokens with X times the most probable one's probability
      --repeat X         above 1: repeated tokens become rarer
      --seed N           the same seed gives the same text
      --stop TEXT        ends the text; may be given several times
      --context N        tokens that a text may have (the file's own)
  -q, --quiet            no speed line

  --score FILE           instead: bits per byte of FILE ("-": standard input), as one text
      --lines            each line of FILE is a text of its own: a JSON line for each
      --window N         tokens of context at most (all)
      --threads N        texts scored at the same time (1)

  --bench                instead: tokens per second after a prompt of 128 tokens
      --check            instead, without a model: every kernel that this processor can run
                         against the portable one
  -h, --help
      --version

Exit codes: 0 good, 1 failed, 2 wrong use.
)";

namespace {

template <class T> T number(std::string_view option, std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
        throw WrongUse(std::string(option) + " " + std::string(text) + ": expected a number");
    return value;
}

}  // namespace

RunOptions parse_options(int argc, char **argv) {
    RunOptions o;
    for (int i = 1; i < argc; i++) {
        std::string_view arg = argv[i];
        std::string_view attached;
        bool has_attached = false;
        if (arg.starts_with("--"))
            if (const size_t at = arg.find('='); at != arg.npos) {
                attached = arg.substr(at + 1);
                arg = arg.substr(0, at);
                has_attached = true;
            }
        const auto value = [&]() -> std::string_view {
            if (std::exchange(has_attached, false)) return attached;
            if (++i >= argc) throw WrongUse(std::string(arg) + " needs a value");
            return argv[i];
        };
        GenerateOptions &g = o.generate;
        if (arg == "-p" || arg == "--prompt") o.prompt = value();
        else if (arg == "-n" || arg == "--max-tokens") g.max_tokens = number<int32_t>(arg, value());
        else if (arg == "-t" || arg == "--temperature") {
            g.sampler.temperature = number<float>(arg, value());
            o.temperature = true;
        } else if (arg == "--top-k") {
            g.sampler.top_k = number<int32_t>(arg, value());
            o.top_k = true;
        } else if (arg == "--top-p") {
            g.sampler.top_p = number<float>(arg, value());
            o.top_p = true;
        } else if (arg == "--min-p") g.sampler.min_p = number<float>(arg, value());
        else if (arg == "--repeat") g.sampler.repetition_penalty = number<float>(arg, value());
        else if (arg == "--seed") {
            g.sampler.seed = number<uint64_t>(arg, value());
            o.seed = true;
        } else if (arg == "--stop") g.stops.emplace_back(value());
        else if (arg == "--context") {
            o.load.context = number<uint32_t>(arg, value());
            if (!o.load.context || o.load.context > 1 << 24)
                throw WrongUse("--context: expected 1 to 16777216 tokens");
        } else if (arg == "-q" || arg == "--quiet") o.quiet = true;
        else if (arg == "--score") o.score = value();
        else if (arg == "--lines") o.lines = true;
        else if (arg == "--window") o.scoring.window = number<uint32_t>(arg, value());
        else if (arg == "--threads") o.scoring.threads = number<uint32_t>(arg, value());
        else if (arg == "--bench") o.bench = true;
        else if (arg.starts_with("-") && arg.size() > 1)
            throw WrongUse("unknown option " + std::string(arg));
        else if (o.model.empty()) o.model = arg;
        else throw WrongUse("unexpected argument '" + std::string(arg) +
                            "'. Text with spaces needs quotes");
        if (has_attached) throw WrongUse(std::string(arg) + " takes no value");
    }
    if (o.model.empty()) throw WrongUse("a GGUF file is needed");
    return o;
}

}  // namespace itera
