#include "gguf/keys.h"

#include <optional>
#include <span>
#include <string_view>

namespace itera {
namespace {

enum class Use {
    read,      // its value is used elsewhere
    harmless,  // changes nothing that this engine computes
    fixed,     // only one value is supported, which is what leaving the key out means
    left_out,  // llama.cpp doesn't read it here either; a note where it is neither `value` nor 0
};
using enum Use;

struct KnownKey {
    std::string_view name;  // without the prefix; one that ends in '*' stands for all that begin so
    Use use = read;
    double value = 0;  // the supported one; a boolean counts as 0 or 1

    bool matches(std::string_view key) const {
        return name.ends_with('*') ? key.starts_with(name.substr(0, name.size() - 1)) : key == name;
    }
};

constexpr KnownKey kModelKeys[] = {
    {"block_count"}, {"context_length"}, {"embedding_length"}, {"feed_forward_length"},
    {"vocab_size"}, {"attention.head_count"}, {"attention.head_count_kv"},
    {"attention.key_length"}, {"attention.value_length"}, {"attention.layer_norm_rms_epsilon"},
    {"rope.dimension_count"}, {"rope.freq_base"}, {"rope.scaling.type"}, {"rope.scaling.factor"},
    {"rope.scale_linear"}, {"expert_count"}, {"expert_used_count"},
    {"expert_shared_feed_forward_length"},
    {"rope.scaling.original_context_length", harmless},  // of scalings that are refused
    {"tensor_data_layout", harmless},
    {"attention.causal", fixed, 1},
    {"rope.scaling.attn_factor", fixed, 1},
    {"nextn_predict_layers", fixed, 0},
    {"use_parallel_residual", fixed, 0},
    {"pooling_type", fixed, 0},
};

constexpr KnownKey kHybridKeys[] = {
    {"attention.scale"}, {"embedding_scale"}, {"residual_scale"}, {"logit_scale"},
    {"rope.scaling.finetuned"},  // false: no positions
    {"ssm.conv_kernel"}, {"ssm.state_size"}, {"ssm.group_count"}, {"ssm.inner_size"},
    {"ssm.time_step_rank"},
};

constexpr KnownKey kLlamaKeys[] = {
    {"rope.scaling.finetuned", harmless},
    {"attention.scale", left_out},
    {"embedding_scale", left_out, 1},
    {"residual_scale", left_out, 1},
    {"logit_scale", left_out, 1},
};

constexpr KnownKey kTokenizerKeys[] = {
    {"ggml.model"}, {"ggml.pre"}, {"ggml.tokens"}, {"ggml.token_type"}, {"ggml.merges"},
    {"ggml.bos_token_id"}, {"ggml.eos_token_id"}, {"ggml.add_bos_token"},
    // llama.cpp ends a text at these too.
    {"ggml.eot_token_id"}, {"ggml.eom_token_id"}, {"ggml.fim_pad_token_id"},
    {"ggml.fim_rep_token_id"}, {"ggml.fim_sep_token_id"},
    {"ggml.add_eos_token", fixed, 0}, {"ggml.add_sep_token", fixed, 0},
    {"ggml.add_space_prefix", fixed, 0}, {"ggml.remove_extra_whitespaces", fixed, 0},
    {"ggml.normalizer.lowercase", fixed, 0}, {"ggml.normalizer.strip_accents", fixed, 0},
    {"ggml.scores", harmless},  // byte-level BPE has ranks instead
    {"ggml.token_type_count", harmless}, {"ggml.padding_token_id", harmless},
    {"ggml.unknown_token_id", harmless}, {"ggml.seperator_token_id", harmless},
    {"ggml.mask_token_id", harmless}, {"ggml.cls_token_id", harmless},
    {"ggml.fim_pre_token_id", harmless}, {"ggml.fim_suf_token_id", harmless},
    {"ggml.fim_mid_token_id", harmless}, {"ggml.prefix_token_id", harmless},
    {"ggml.suffix_token_id", harmless}, {"ggml.middle_token_id", harmless},
    {"huggingface.json", harmless}, {"chat_template*", harmless},
};

std::string shown(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", value);
    return text;
}

void check(const Gguf &file, std::string_view prefix,
           std::initializer_list<std::span<const KnownKey>> tables,
           std::vector<std::string> *notes) {
    for (const Entry &entry : file.entries()) {
        const std::string_view key = entry.key;
        if (!key.starts_with(prefix)) continue;
        const KnownKey *known = nullptr;
        for (const auto &table : tables)
            for (const KnownKey &each : table)
                if (each.matches(key.substr(prefix.size()))) known = &each;
        if (!known)
            throw Error("metadata key " + quoted(key) +
                        " isn't known to this engine, which would compute something else without "
                        "it; expected the keys that `itera export` writes: make the file with it, "
                        "or run this one in a program that knows the key");
        if (known->use != fixed && known->use != left_out) continue;
        const std::optional<double> value = number(entry);
        if (value == known->value || (known->use == left_out && value == 0)) continue;
        const std::string given = value ? shown(*value) : "not a number";
        if (known->use == fixed)
            throw Error("metadata key " + quoted(key) + " is " + given + "; expected " +
                        shown(known->value) + ": this engine has nothing else");
        notes->push_back(std::string(key) + "=" + given +
                         " is left out, as llama.cpp leaves it out in models of this kind");
    }
}

}  // namespace

void check_whole_model(const Gguf &file) {
    if (const uint64_t parts = file.get<uint64_t>("split.count", 1); parts > 1)
        throw Error("is part " + std::to_string(file.get<uint64_t>("split.no", 0) + 1) + " of " +
                    std::to_string(parts) +
                    " of a split model; expected one whole file: merge the parts with llama.cpp's "
                    "`llama-gguf-split --merge FIRST-PART WHOLE.gguf`");
    if (const auto type = file.get<std::string_view>("general.type", "model"); type != "model")
        throw Error("general.type is " + quoted(type) + "; expected 'model': this file holds no "
                    "whole language model");
}

void check_architecture_keys(const Gguf &file, const std::string &architecture,
                             std::vector<std::string> &notes) {
    const bool hybrid = architecture == "granitehybrid";
    check(file, architecture + ".",
          {kModelKeys, hybrid ? std::span<const KnownKey>(kHybridKeys) : kLlamaKeys}, &notes);
}

void check_tokenizer_keys(const Gguf &file) {
    check(file, "tokenizer.", {kTokenizerKeys}, nullptr);
}

}  // namespace itera
