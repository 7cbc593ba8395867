// itera-run: text, scores and speed of a GGUF model, without Python.
#include <algorithm>
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
#include "run_options.h"
#include "score.h"

namespace {

using namespace itera;
using Clock = std::chrono::steady_clock;

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

int write_text(const Model &model, RunOptions &o) {
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

int score_file(const Model &model, const RunOptions &o) {
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
                print(kRunHelp);
                return 0;
            }
            if (!std::strcmp(argv[i], "--check")) return check();
            if (!std::strcmp(argv[i], "--version")) {
                print("itera-run " ITERA_VERSION "\n");
                return 0;
            }
        }
        RunOptions o = parse_options(argc, argv);
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
