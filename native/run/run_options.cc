#include "run/run_options.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace itera {

const char *const kRunHelp = R"(itera-run MODEL.gguf [options]

Writes text with a tiny language model (GGUF: granitehybrid or llama; F32, F16, BF16, Q8_0, Q4_0).

  -p, --prompt TEXT      text to go on from, whatever it begins with; "-" alone reads it from
                         standard input
  -n, --max-tokens N     tokens to write at most (200)
  -t, --temperature X    0 always takes the most probable token (the file's advice, else 0.8)
      --top-k N          only the N most probable tokens; 0: all
      --top-p X          only the most probable tokens that together reach X
      --min-p X          only tokens with X times the most probable one's probability
      --repeat X         above 1: repeated tokens become rarer
      --seed N           the same seed gives the same text: 0 to 2^63-1
      --stop TEXT        ends the text; may be given several times
      --context N        tokens that a text may have (the file's own)
  -q, --quiet            no speed line

  --score FILE           instead: bits per byte of FILE ("-": standard input), as one text
      --lines            each line of FILE is a text of its own, as `itera score` reads them: a
                         JSON line for each that isn't blank
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

constexpr int64_t kMost = INT64_MAX;  // as a bound: nothing more is asked of the number

std::string range_text(int64_t least, int64_t most) {
    if (most == kMost) return "a whole number, " + std::to_string(least) + " or more";
    return "a whole number from " + std::to_string(least) + " to " + std::to_string(most);
}

int64_t whole(std::string_view option, std::string_view text, int64_t least, int64_t most,
              const std::string &expected) {
    int64_t value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
        throw WrongUse(std::string(option) + " " + std::string(text) + ": expected " + expected);
    return value;
}

int64_t whole(std::string_view option, std::string_view text, int64_t least, int64_t most) {
    return whole(option, text, least, most, range_text(least, most));
}

float number(std::string_view option, std::string_view text) {
    float value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
        throw WrongUse(std::string(option) + " " + std::string(text) + ": expected a number");
    return value;
}

// An option: how it is called, and what it does with its value ("" where it takes none).
struct Option {
    std::string_view short_name, name;
    bool takes_value;
    void (*apply)(RunOptions &o, std::string_view name, std::string_view value);
};

using Name = std::string_view;
using Value = std::string_view;

constexpr Option kOptions[] = {
    {"-p", "--prompt", true, [](RunOptions &o, Name, Value v) { o.prompt = v; }},
    {"-n", "--max-tokens", true,
     [](RunOptions &o, Name n, Value v) {
         o.generate.max_tokens = int32_t(std::min<int64_t>(whole(n, v, 1, kMost), INT32_MAX));
     }},
    {"-t", "--temperature", true,
     [](RunOptions &o, Name n, Value v) { o.temperature = number(n, v); }},
    {"", "--top-k", true,
     [](RunOptions &o, Name n, Value v) {
         o.top_k = int32_t(std::min<int64_t>(whole(n, v, 0, kMost), INT32_MAX));
     }},
    {"", "--top-p", true, [](RunOptions &o, Name n, Value v) { o.top_p = number(n, v); }},
    {"", "--min-p", true, [](RunOptions &o, Name n, Value v) { o.min_p = number(n, v); }},
    {"", "--repeat", true,
     [](RunOptions &o, Name n, Value v) { o.repetition_penalty = number(n, v); }},
    {"", "--seed", true,
     [](RunOptions &o, Name n, Value v) {
         o.seed = uint64_t(whole(n, v, 0, INT64_MAX, "a whole number from 0 to 2^63-1"));
     }},
    {"", "--stop", true, [](RunOptions &o, Name, Value v) { o.generate.stops.emplace_back(v); }},
    {"", "--context", true,
     [](RunOptions &o, Name n, Value v) {
         o.load.context = uint32_t(whole(n, v, 1, 1 << 24, "1 to 16777216 tokens"));
     }},
    {"-q", "--quiet", false, [](RunOptions &o, Name, Value) { o.quiet = true; }},
    {"", "--score", true, [](RunOptions &o, Name, Value v) { o.score = v; }},
    {"", "--lines", false, [](RunOptions &o, Name, Value) { o.lines = true; }},
    {"", "--window", true,
     [](RunOptions &o, Name n, Value v) {
         o.scoring.window = uint32_t(std::min<int64_t>(whole(n, v, 1, kMost), UINT32_MAX));
     }},
    {"", "--threads", true,
     [](RunOptions &o, Name n, Value v) {
         o.scoring.threads = uint32_t(whole(n, v, 1, kMostThreads));
     }},
    {"", "--bench", false, [](RunOptions &o, Name, Value) { o.bench = true; }},
    {"", "--check", false, [](RunOptions &o, Name, Value) { o.check = true; }},
    {"-h", "--help", false, [](RunOptions &o, Name, Value) { o.help = true; }},
    {"", "--version", false, [](RunOptions &o, Name, Value) { o.version = true; }},
};

size_t edit_distance(std::string_view a, std::string_view b) {
    std::vector<size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), size_t(0));
    for (size_t i = 0; i < a.size(); i++) {
        size_t before = row[0]++;
        for (size_t j = 0; j < b.size(); j++) {
            const size_t changed = before + (a[i] == b[j] ? 0 : 1);
            before = row[j + 1];
            row[j + 1] = std::min({row[j + 1] + 1, row[j] + 1, changed});
        }
    }
    return row.back();
}

// The option that was probably meant, or "".
std::string_view meant(std::string_view given) {
    static constexpr std::pair<Name, Name> kOthers[] = {
        {"--n-predict", "--max-tokens"}, {"--tokens", "--max-tokens"}, {"--length", "--max-tokens"},
        {"--repetition-penalty", "--repeat"}, {"--repeat-penalty", "--repeat"},
        {"--ctx-size", "--context"},     {"--text", "--prompt"},       {"--file", "--score"},
    };
    for (const auto &[other, name] : kOthers)
        if (given == other) return name;
    std::string_view best;
    size_t least = 3;  // fewer changes than this
    for (const Option &option : kOptions) {
        if (given.size() > 3 && option.name.starts_with(given)) return option.name;
        if (const size_t d = edit_distance(given, option.name); d < least) {
            least = d;
            best = option.name;
        }
    }
    return best;
}

[[noreturn]] void unknown_option(std::string_view name, const std::string &argument) {
    if (const std::string_view other = meant(name); !other.empty())
        throw WrongUse("unknown option " + std::string(name) + ". Did you mean " +
                       std::string(other) + "?");
    throw WrongUse("unknown option " + argument +
                   ". If it is a text to go on from, give it as: --prompt '" + argument + "'");
}

}  // namespace

RunOptions parse_options(int argc, char **argv) {
    RunOptions o;
    for (int i = 1; i < argc; i++) {
        std::string_view arg = argv[i];
        if (!arg.starts_with("-") || arg == "-") {
            if (arg == "-")
                throw WrongUse("'-' (standard input) can be a prompt or a text to score, but no "
                               "model: expected a GGUF file");
            if (!o.model.empty())
                throw WrongUse("unexpected argument '" + std::string(arg) +
                               "'. Text with spaces needs quotes");
            o.model = arg;
            continue;
        }
        std::string_view attached;
        bool has_attached = false;
        if (const size_t at = arg.find('='); arg.starts_with("--") && at != arg.npos) {
            attached = arg.substr(at + 1);
            arg = arg.substr(0, at);
            has_attached = true;
        }
        const auto option = std::find_if(std::begin(kOptions), std::end(kOptions), [&](auto &each) {
            return arg == each.name || arg == each.short_name;
        });
        if (option == std::end(kOptions)) unknown_option(arg, argv[i]);
        if (has_attached && !option->takes_value)
            throw WrongUse(std::string(arg) + " takes no value");
        if (option->takes_value && !has_attached) {
            if (++i >= argc) throw WrongUse(std::string(arg) + " needs a value");
            attached = argv[i];
        }
        option->apply(o, arg, attached);
        if (o.help || o.version || o.check) return o;
    }
    if (o.model.empty())
        throw WrongUse("a GGUF file is needed: make one of a model with `itera export`");
    if (o.lines && o.score.empty()) throw WrongUse("--lines needs --score FILE");
    return o;
}

}  // namespace itera
