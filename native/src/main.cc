// itera-run: text, scores and speed of a GGUF model, without Python.
#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "check.h"
#include "generate.h"
#include "model.h"
#include "score.h"

namespace {

using namespace itera;
using Clock = std::chrono::steady_clock;

constexpr const char *kHelp = R"(itera-run MODEL.gguf [options]

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

struct Options {
    std::string model, prompt, score;
    bool bench = false, lines = false, quiet = false;
    bool temperature = false, top_k = false, top_p = false, seed = false;
    LoadOptions load;
    GenerateOptions generate;
    ScoreOptions scoring;
};

struct WrongUse : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <class T> T number(std::string_view option, std::string_view text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
        throw WrongUse(std::string(option) + " " + std::string(text) + ": expected a number");
    return value;
}

Options parse(int argc, char **argv) {
    Options o;
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
            if (has_attached) return attached;
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
    }
    if (o.model.empty()) throw WrongUse("a GGUF file is needed");
    return o;
}

std::string read_all(const std::string &path) {
    std::ifstream file;
    if (path != "-") {
        file.open(path, std::ios::binary);
        if (!file) throw Error("'" + path + "' can't be read");
    }
    std::istream &in = path == "-" ? std::cin : file;
    return {std::istreambuf_iterator<char>(in), {}};
}

void print(std::string_view text) {
    fwrite(text.data(), 1, text.size(), stdout);
    fflush(stdout);
}

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

int write_text(const Model &model, Options &o) {
    SamplerOptions &s = o.generate.sampler;
    if (!o.temperature) s.temperature = model.sampling.temperature;
    if (!o.top_k) s.top_k = model.sampling.top_k;
    if (!o.top_p) s.top_p = model.sampling.top_p;
    if (!o.seed) s.seed = (uint64_t(std::random_device{}()) << 32) | std::random_device{}();
    if (o.prompt == "-") o.prompt = read_all("-");
    const std::vector<int32_t> prompt = model.tokenizer.encode(o.prompt);
    Stream stream(model, State(model), prompt, o.generate);
    Session session(model, uint32_t(std::clamp<size_t>(prompt.size(), 1, 64)));
    std::vector<Stream *> streams{&stream};
    std::vector<std::string> pieces;
    print(o.prompt);
    const auto begin = Clock::now();
    while (!stream.done()) {
        step(session, streams, pieces);
        print(pieces[0]);
    }
    const double seconds = seconds_since(begin);
    print("\n");
    if (!o.quiet)
        fprintf(stderr, "[%zu tokens in %.1f ms: %.0f tokens/s, %s; ended by %s]\n",
                stream.tokens().size(), seconds * 1e3, double(stream.tokens().size()) / seconds,
                model.kernels.name, stream.finish() == Finish::length ? "length" : "stop");
    return 0;
}

int score_file(const Model &model, const Options &o) {
    const std::string text = read_all(o.score);
    std::vector<std::string_view> texts;
    if (o.lines) {
        for (std::string_view rest = text; !rest.empty();) {
            const size_t end = rest.find('\n');
            texts.push_back(rest.substr(0, end));
            rest = end == rest.npos ? std::string_view() : rest.substr(end + 1);
        }
    } else {
        texts.push_back(text);
    }
    const std::vector<Score> scores = score(model, texts, o.scoring);
    for (const Score &s : scores)
        printf("{\"bytes\": %llu, \"tokens\": %llu, \"nats\": %.6f, \"bits_per_byte\": %.6f}\n",
               (unsigned long long)s.bytes, (unsigned long long)s.tokens, s.nats,
               s.bits_per_byte());
    return 0;
}

int check() {
    bool good = true;
    for (const char *name : {"portable", "avx2", "avx512", "neon"}) {
        const Kernels *kernels = kernels_named(name);
        if (!kernels) continue;
        for (const KernelCheck &c : check_kernels(*kernels)) {
            printf("%-9s %-30s %9.2e  of %7.1e allowed  %s\n", name, c.kernel.c_str(),
                   c.difference, c.allowed, c.good() ? "good" : "WRONG");
            good &= c.good();
        }
    }
    return good ? 0 : 1;
}

int bench(const Model &model) {
    constexpr int kRepeats = 15, kTokens = 200, kContext = 128;
    GenerateOptions options;
    options.max_tokens = kTokens;
    options.sampler.temperature = 0;
    options.ignore_end = true;
    // A prompt of the model's own making, so that experts are chosen as in use.
    std::vector<int32_t> prompt;
    {
        options.max_tokens = kContext;
        options.sampler.temperature = 1;
        Stream stream(model, State(model), {}, options);
        Session session(model, 1);
        std::vector<Stream *> streams{&stream};
        std::vector<std::string> pieces;
        while (!stream.done()) step(session, streams, pieces);
        prompt = stream.tokens();
        options.max_tokens = kTokens;
        options.sampler.temperature = 0;
    }
    std::vector<double> speeds;
    Session session(model, 64);
    for (int repeat = 0; repeat <= kRepeats; repeat++) {
        Stream stream(model, State(model), prompt, options);
        std::vector<Stream *> streams{&stream};
        std::vector<std::string> pieces;
        step(session, streams, pieces);  // reads the prompt
        const auto begin = Clock::now();
        while (!stream.done()) step(session, streams, pieces);
        if (repeat) speeds.push_back((kTokens - 1) / seconds_since(begin));
    }
    std::sort(speeds.begin(), speeds.end());
    printf("decode, context %d, %d tokens, greedy, one thread, %s: median %.0f tokens/s, "
           "%.0f to %.0f over %d repeats\n",
           kContext, kTokens, model.kernels.name, speeds[kRepeats / 2], speeds.front(),
           speeds.back(), kRepeats);
    return 0;
}

}  // namespace

int main(int argc, char **argv) {
    try {
        for (int i = 1; i < argc; i++) {
            if (!std::strcmp(argv[i], "-h") || !std::strcmp(argv[i], "--help")) {
                print(kHelp);
                return 0;
            }
            if (!std::strcmp(argv[i], "--check")) return check();
            if (!std::strcmp(argv[i], "--version")) {
                print("itera-run " ITERA_VERSION "\n");
                return 0;
            }
        }
        Options o = parse(argc, argv);
        const Model model = Model::load(o.model, o.load);
        if (o.bench) return bench(model);
        return o.score.empty() ? write_text(model, o) : score_file(model, o);
    } catch (const WrongUse &error) {
        fprintf(stderr, "itera-run: error: %s\nSee: itera-run --help\n", error.what());
        return 2;
    } catch (const UsageError &error) {
        fprintf(stderr, "itera-run: error: %s\n", error.what());
        return 2;
    } catch (const std::exception &error) {
        fprintf(stderr, "itera-run: error: %s\n", error.what());
        return 1;
    }
}
