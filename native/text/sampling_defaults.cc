#include "text/sampling_defaults.h"

#include <algorithm>
#include <limits>
#include <string_view>

namespace itera {
namespace {

constexpr std::string_view kPrefix = "general.sampling.";

// The samplers in the order of `Sampler::sample`.
constexpr std::string_view kOrder[] = {"penalties", "temperature", "top_k", "top_p", "min_p"};
// Each does nothing unless a key of its own, or an option of llama.cpp, gives it a strength.
constexpr std::string_view kIdle[] = {"dry", "top_n_sigma", "typ_p", "xtc", "infill", "adaptive_p"};
constexpr std::string_view kRead[] = {"temp",           "top_k",          "top_p",    "min_p",
                                      "penalty_repeat", "penalty_last_n", "sequence"};

template <class Range> bool holds(const Range &range, std::string_view name) {
    return std::ranges::find(range, name) != std::end(range);
}

// Whether an unsupported sampler is off with this value.
bool is_off(const Entry &entry, std::string_view name) {
    if (name == "xtc_threshold" || name == "mirostat_tau" || name == "mirostat_eta") return true;
    if (name == "xtc_probability" || name == "mirostat") return number(entry) == 0;
    return false;
}

// The samplers of the file's sequence that this engine has, and the first that it doesn't know.
void read_sequence(std::string_view sequence, std::vector<std::string_view> &known,
                   std::string &unknown) {
    while (!sequence.empty()) {
        const size_t end = std::min(sequence.find(';'), sequence.size());
        const std::string_view name = sequence.substr(0, end);
        sequence.remove_prefix(std::min(end + 1, sequence.size()));
        if (holds(kOrder, name))
            known.push_back(name);
        else if (!name.empty() && !holds(kIdle, name) && unknown.empty())
            unknown = quoted(name);
    }
}

// Turns off the samplers that the sequence leaves out.
void apply_sequence(const Gguf &file, SamplerOptions &s, std::vector<std::string> &notes) {
    std::vector<std::string_view> named;
    std::string unknown;
    read_sequence(file.need<std::string_view>("general.sampling.sequence"), named, unknown);
    if (!unknown.empty())
        notes.push_back("general.sampling.sequence names " + unknown +
                        ", which this engine doesn't know: it is left out");
    if (!holds(named, "penalties")) s.repetition_penalty = 1;
    if (!holds(named, "temperature")) s.temperature = 1;
    if (!holds(named, "top_k")) s.top_k = 0;
    if (!holds(named, "top_p")) s.top_p = 1;
    if (!holds(named, "min_p")) s.min_p = 0;
    // What does nothing may stand anywhere; top-k gives the same before temperature and after it.
    std::erase_if(named, [&](std::string_view name) {
        return (name == "penalties" && s.repetition_penalty == 1) ||
               (name == "temperature" && (s.temperature == 1 || s.temperature == 0)) ||
               (name == "top_k" && s.top_k == 0) || (name == "top_p" && s.top_p == 1) ||
               (name == "min_p" && s.min_p == 0);
    });
    const bool cut_by_mass = holds(named, "top_p") || holds(named, "min_p");
    if (!cut_by_mass) std::erase(named, "temperature");
    const auto place = [](std::string_view name) {
        return std::ranges::find(kOrder, name) - std::begin(kOrder);
    };
    if (!std::ranges::is_sorted(named, {}, place))
        notes.push_back("general.sampling.sequence has another order than this engine's, which is "
                        "penalties, temperature, top_k, top_p, min_p: its texts are drawn a little "
                        "differently than llama.cpp's");
}

}  // namespace

SamplerOptions read_sampling(const Gguf &file, std::vector<std::string> &notes) {
    SamplerOptions s;
    const auto real = [&](const char *name, float otherwise) {
        return file.get<double>(std::string(kPrefix) + name, otherwise);
    };
    const auto whole = [&](const char *name, int64_t otherwise, int64_t most) {
        const auto value = file.get<int64_t>(std::string(kPrefix) + name, otherwise);
        return int32_t(std::clamp<int64_t>(value, -1, most));
    };
    // Out of their ranges: as llama.cpp, where any temperature up to 0 is greedy and any top-p
    // up to 0 leaves one token.
    s.temperature = float(std::clamp(real("temp", s.temperature), 0.0, 1e6));
    s.top_p = float(std::clamp<double>(real("top_p", s.top_p),
                                       std::numeric_limits<float>::min(), 1.0));
    s.min_p = float(std::clamp(real("min_p", s.min_p), 0.0, 1.0));
    s.top_k = std::max(0, whole("top_k", s.top_k, 1 << 24));
    s.repetition_window = whole("penalty_last_n", s.repetition_window, kLongestWindow);
    if (s.repetition_window < 0) s.repetition_window = kLongestWindow;  // all of the text
    if (const double penalty = real("penalty_repeat", 1); penalty > 0 && penalty <= 1e6)
        s.repetition_penalty = float(penalty);
    else
        throw Error("general.sampling.penalty_repeat is " + std::to_string(penalty) +
                    "; expected more than 0, at most 1000000; 1 changes nothing");
    for (const Entry &entry : file.entries()) {
        if (!entry.key.starts_with(kPrefix)) continue;
        const std::string_view name = entry.key.substr(kPrefix.size());
        if (!holds(kRead, name) && !is_off(entry, name))
            notes.push_back(quoted(entry.key) + " is left out: this engine has no such sampler");
    }
    if (file.has("general.sampling.sequence")) apply_sequence(file, s, notes);
    return s;
}

}  // namespace itera
