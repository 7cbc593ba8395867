// itera-run: text, scores and speed of a GGUF model, without Python.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "measure/check.h"
#include "model/model.h"
#include "run/generate.h"
#include "run/run_options.h"
#include "run/score.h"
#include "run/standard_io.h"
#include "run/text_lines.h"
#include "text/hash.h"

namespace {

using namespace itera;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
}

int write_text(const Model &model, RunOptions &o) {
    SamplerOptions &s = o.generate.sampler;
    s = model.sampling;
    s.presence_penalty = o.presence_penalty;
    s.frequency_penalty = o.frequency_penalty;
    // The advised window belongs to the advised penalty; a penalty from here has the default one.
    if (o.repetition_penalty) s.repetition_window = SamplerOptions{}.repetition_window;
    s.temperature = o.temperature.value_or(s.temperature);
    s.top_k = o.top_k.value_or(s.top_k);
    s.top_p = o.top_p.value_or(s.top_p);
    s.min_p = o.min_p.value_or(s.min_p);
    s.repetition_penalty = o.repetition_penalty.value_or(s.repetition_penalty);
    s.seed = o.seed ? *o.seed : random_key();
    if (o.prompt == "-") o.prompt = read_input("-");
    const std::vector<int32_t> prompt = model.tokenizer.encode(o.prompt);
    Stream stream(model, State(model), prompt, o.generate);
    Session session(model, uint32_t(std::clamp<size_t>(prompt.size(), 1, 64)));
    write_output(o.prompt);
    const auto begin = Clock::now();
    while (!stream.done()) write_output(step(session, stream));
    const double seconds = seconds_since(begin);
    write_output("\n");
    if (!o.quiet)
        fprintf(stderr, "[%zu tokens in %.1f ms: %.0f tokens/s, %s; ended by %s]\n",
                stream.tokens().size(), seconds * 1e3, double(stream.tokens().size()) / seconds,
                model.kernels.name, stream.finish() == Finish::length ? "length" : "stop");
    return 0;
}

std::string score_json(const Score &s) {
    return formatted(
        "\"bytes\": %llu, \"tokens\": %llu, \"nats\": %.6f, \"bits_per_byte\": %.6f}\n",
        (unsigned long long)s.bytes, (unsigned long long)s.tokens, s.nats, s.bits_per_byte());
}

int score_file(const Model &model, const RunOptions &o) {
    const std::string text = read_input(o.score);
    if (!o.lines) {
        write_output("{" + score_json(score(model, {text}, o.scoring)[0]));
        return 0;
    }
    const std::string name = o.score == "-" ? "standard input" : o.score;
    const std::vector<TextLine> lines = naming(name, [&] { return text_lines(text); });
    std::vector<std::string_view> texts;
    for (const TextLine &line : lines) texts.push_back(line.text);
    const std::vector<Score> scores = score(model, texts, o.scoring);
    std::string out;
    for (size_t i = 0; i < lines.size(); i++)
        out += "{\"line\": " + std::to_string(lines[i].number) + ", " + score_json(scores[i]);
    write_output(out);
    return 0;
}

int check() {
    bool good = true;
    for (const char *name : {"portable", "avx2", "avx512", "neon"}) {
        const Kernels *kernels = kernels_named(name);
        if (!kernels) continue;
        for (const KernelCheck &c : check_kernels(*kernels)) {
            write_output(formatted("%-9s %-30s %9.2e  of %7.1e allowed  %s\n", name,
                                   c.kernel.c_str(), c.difference, c.allowed,
                                   c.good() ? "good" : "WRONG"));
            good &= c.good();
        }
    }
    return good ? 0 : 1;
}

int bench(const Model &model) {
    constexpr int kRepeats = 15, kTokens = 200, kContext = 128;
    GenerateOptions options;
    options.ignore_end = true;
    // The model writes the prompt itself, so that experts are chosen as in use.
    options.max_tokens = kContext;
    options.sampler.temperature = 1;
    std::vector<int32_t> first;
    if (model.tokenizer.bos() < 0) first.push_back(model.tokenizer.eot());
    Session session(model, 64);
    Stream prompt(model, State(model), first, options);
    while (!prompt.done()) step(session, prompt);
    options.max_tokens = kTokens;
    options.sampler.temperature = 0;
    std::vector<double> speeds;
    for (int repeat = 0; repeat <= kRepeats; repeat++) {
        Stream stream(model, State(model), prompt.tokens(), options);
        step(session, stream);  // reads the prompt
        const auto begin = Clock::now();
        while (!stream.done()) step(session, stream);
        if (repeat) speeds.push_back((kTokens - 1) / seconds_since(begin));
    }
    std::sort(speeds.begin(), speeds.end());
    write_output(formatted("decode, context %d, %d tokens, greedy, one thread, %s: median %.0f "
                           "tokens/s, %.0f to %.0f over %d repeats\n",
                           kContext, kTokens, model.kernels.name, speeds[kRepeats / 2],
                           speeds.front(), speeds.back(), kRepeats));
    return 0;
}

}  // namespace

int main(int argc, char **argv) {
    guard_standard_streams();
    try {
        RunOptions o = parse_options(argc, argv);
        if (o.help) write_output(kRunHelp);
        if (o.version) write_output("itera-run " ITERA_VERSION "\n");
        if (o.help || o.version) return 0;
        if (o.check) return check();
        const Model model = Model::load(o.model, o.context);
        for (const std::string &note : model.notes)
            fprintf(stderr, "itera-run: note: %s: %s\n", o.model.c_str(), note.c_str());
        if (o.bench) return bench(model);
        return o.score.empty() ? write_text(model, o) : score_file(model, o);
    } catch (const BrokenPipe &) {
        return 1;
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
