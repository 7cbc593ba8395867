#include "run/run_options.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <numeric>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace itera {

const char *const kRunHelp = R"(itera-run MODEL.gguf [options]

Writes text with a tiny language model (GGUF, plain or compressed by gzip: granitehybrid or llama;
F32, F16, BF16, Q8_0, Q4_0).

  -p, --prompt TEXT      text to go on from, whatever it begins with; "-" alone reads it from
                         standard input
  -n, --max-tokens N     tokens to write at most (200)
  -t, --temperature X    0 always takes the most probable token (the file's advice, else 0.8)
      --top-k N          only the N most probable tokens; 0: all
      --top-p X          only the most probable tokens that together reach X
      --min-p X          only tokens with X times the most probable one's probability
      --repeat X         above 1: repeated tokens become rarer
      --presence-penalty X   subtracted from the logits of tokens that were written: -2 to 2
      --frequency-penalty X  the same, as often as a token was written
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

// An option as it stands on the command line. The numbers throw `WrongUse`.
struct Argument {
    std::string_view name, value;

    template <class T> T parse(const std::string &expected) const {
        T number{};
        const char *end = value.data() + value.size();
        const auto [stop, error] = std::from_chars(value.data(), end, number);
        if (error != std::errc() || stop != end) refuse(expected);
        return number;
    }
    [[noreturn]] void refuse(const std::string &expected) const {
        throw WrongUse(std::string(name) + " " + std::string(value) + ": expected " + expected);
    }
    float number() const { return parse<float>("a number"); }
    int64_t whole(int64_t least, int64_t most, const std::string &expected) const {
        const auto number = parse<int64_t>(expected);
        if (number < least || number > most) refuse(expected);
        return number;
    }
    // A count without an upper bound: more than T can hold means its greatest number.
    template <class T> T count(int64_t least) const {
        const auto number = whole(least, INT64_MAX,
                                  "a whole number, " + std::to_string(least) + " or more");
        return T(std::min<int64_t>(number, std::numeric_limits<T>::max()));
    }
};

struct Option {
    std::string_view short_name, name;
    bool takes_value;
    void (*apply)(RunOptions &o, const Argument &a);
};

using O = RunOptions;
using A = Argument;

constexpr Option kOptions[] = {
    {"-p", "--prompt", true, [](O &o, const A &a) { o.prompt = a.value; }},
    {"-n", "--max-tokens", true,
     [](O &o, const A &a) { o.generate.max_tokens = a.count<int32_t>(1); }},
    {"-t", "--temperature", true, [](O &o, const A &a) { o.temperature = a.number(); }},
    {"", "--top-k", true, [](O &o, const A &a) { o.top_k = a.count<int32_t>(0); }},
    {"", "--top-p", true, [](O &o, const A &a) { o.top_p = a.number(); }},
    {"", "--min-p", true, [](O &o, const A &a) { o.min_p = a.number(); }},
    {"", "--repeat", true, [](O &o, const A &a) { o.repetition_penalty = a.number(); }},
    {"", "--presence-penalty", true,
     [](O &o, const A &a) { o.presence_penalty = a.number(); }},
    {"", "--frequency-penalty", true,
     [](O &o, const A &a) { o.frequency_penalty = a.number(); }},
    {"", "--seed", true,
     [](O &o, const A &a) { o.seed = a.whole(0, INT64_MAX, "a whole number from 0 to 2^63-1"); }},
    {"", "--stop", true, [](O &o, const A &a) { o.generate.stops.emplace_back(a.value); }},
    {"", "--context", true,
     [](O &o, const A &a) { o.context = uint32_t(a.whole(1, 1 << 24, "1 to 16777216 tokens")); }},
    {"-q", "--quiet", false, [](O &o, const A &) { o.quiet = true; }},
    {"", "--score", true,
     [](O &o, const A &a) {
         if (a.value.empty()) a.refuse("a file, or - for standard input");
         o.score = a.value;
     }},
    {"", "--lines", false, [](O &o, const A &) { o.lines = true; }},
    {"", "--window", true, [](O &o, const A &a) { o.scoring.window = a.count<uint32_t>(1); }},
    {"", "--threads", true,
     [](O &o, const A &a) {
         o.scoring.threads = uint32_t(a.whole(
             1, kMostThreads, "a whole number from 1 to " + std::to_string(kMostThreads)));
     }},
    {"", "--bench", false, [](O &o, const A &) { o.bench = true; }},
    {"", "--check", false, [](O &o, const A &) { o.check = true; }},
    {"-h", "--help", false, [](O &o, const A &) { o.help = true; }},
    {"", "--version", false, [](O &o, const A &) { o.version = true; }},
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

// The option that the unknown one was probably meant to be, or "".
std::string_view meant(std::string_view given) {
    static constexpr std::pair<std::string_view, std::string_view> kOthers[] = {
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
        std::optional<std::string_view> value;
        if (const size_t at = arg.find('='); arg.starts_with("--") && at != arg.npos) {
            value = arg.substr(at + 1);
            arg = arg.substr(0, at);
        }
        const auto option = std::find_if(std::begin(kOptions), std::end(kOptions), [&](auto &each) {
            return arg == each.name || arg == each.short_name;
        });
        if (option == std::end(kOptions)) unknown_option(arg, argv[i]);
        if (value && !option->takes_value)
            throw WrongUse(std::string(arg) + " takes no value");
        if (option->takes_value && !value) {
            if (++i >= argc) throw WrongUse(std::string(arg) + " needs a value");
            value = argv[i];
        }
        option->apply(o, {arg, value.value_or("")});
        if (o.help || o.version || o.check) return o;
    }
    if (o.model.empty())
        throw WrongUse("a GGUF file is needed: make one of a model with `itera export`");
    if (o.lines && o.score.empty()) throw WrongUse("--lines needs --score FILE");
    return o;
}

}  // namespace itera
