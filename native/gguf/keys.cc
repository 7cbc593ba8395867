#include "gguf/keys.h"

#include <algorithm>
#include <span>
#include <string_view>

namespace itera {
namespace {

enum class Use {
    read,      // obeyed elsewhere
    harmless,  // changes nothing that this engine computes
    fixed,     // taken with one value only, which is what leaving the key out means
    left_out,  // llama.cpp doesn't read it here either: said where it is neither `value` nor 0
};

struct KnownKey {
    std::string_view name;  // without the prefix; one that ends in '*' stands for all that begin so
    Use use = Use::read;
    double value = 0;  // the one that is taken; a boolean counts as 0 or 1
};

constexpr KnownKey kModelKeys[] = {
    {"block_count"},
    {"context_length"},
    {"embedding_length"},
    {"feed_forward_length"},
    {"vocab_size"},
    {"attention.head_count"},
    {"attention.head_count_kv"},
    {"attention.key_length"},
    {"attention.value_length"},
    {"attention.layer_norm_rms_epsilon"},
    {"rope.dimension_count"},
    {"rope.freq_base"},
    {"rope.scaling.type"},
    {"rope.scaling.factor"},
    {"rope.scale_linear"},
    {"expert_count"},
    {"expert_used_count"},
    {"expert_shared_feed_forward_length"},
    {"rope.scaling.original_context_length", Use::harmless},  // of scalings that are refused
    {"tensor_data_layout", Use::harmless},
    {"attention.causal", Use::fixed, 1},
    {"rope.scaling.attn_factor", Use::fixed, 1},
    {"nextn_predict_layers", Use::fixed, 0},
    {"use_parallel_residual", Use::fixed, 0},
    {"pooling_type", Use::fixed, 0},
};

constexpr KnownKey kHybridKeys[] = {
    {"attention.scale"},  {"embedding_scale"}, {"residual_scale"},
    {"logit_scale"},      {"rope.scaling.finetuned"},  // false: no positions
    {"ssm.conv_kernel"},  {"ssm.state_size"},  {"ssm.group_count"},
    {"ssm.inner_size"},   {"ssm.time_step_rank"},
};

constexpr KnownKey kLlamaKeys[] = {
    {"rope.scaling.finetuned", Use::harmless},
    {"attention.scale", Use::left_out},
    {"embedding_scale", Use::left_out, 1},
    {"residual_scale", Use::left_out, 1},
    {"logit_scale", Use::left_out, 1},
};

constexpr KnownKey kTokenizerKeys[] = {
    {"ggml.model"},
    {"ggml.pre"},
    {"ggml.tokens"},
    {"ggml.token_type"},
    {"ggml.merges"},
    {"ggml.bos_token_id"},
    {"ggml.eos_token_id"},
    {"ggml.add_bos_token"},
    {"ggml.eot_token_id"},  // llama.cpp ends a text at these too
    {"ggml.eom_token_id"},
    {"ggml.fim_pad_token_id"},
    {"ggml.fim_rep_token_id"},
    {"ggml.fim_sep_token_id"},
    {"ggml.add_eos_token", Use::fixed, 0},
    {"ggml.add_sep_token", Use::fixed, 0},
    {"ggml.add_space_prefix", Use::fixed, 0},
    {"ggml.remove_extra_whitespaces", Use::fixed, 0},
    {"ggml.normalizer.lowercase", Use::fixed, 0},
    {"ggml.normalizer.strip_accents", Use::fixed, 0},
    {"ggml.scores", Use::harmless},  // byte-level BPE has ranks instead
    {"ggml.token_type_count", Use::harmless},
    {"ggml.padding_token_id", Use::harmless},
    {"ggml.unknown_token_id", Use::harmless},
    {"ggml.seperator_token_id", Use::harmless},
    {"ggml.mask_token_id", Use::harmless},
    {"ggml.cls_token_id", Use::harmless},
    {"ggml.fim_pre_token_id", Use::harmless},
    {"ggml.fim_suf_token_id", Use::harmless},
    {"ggml.fim_mid_token_id", Use::harmless},
    {"ggml.prefix_token_id", Use::harmless},
    {"ggml.suffix_token_id", Use::harmless},
    {"ggml.middle_token_id", Use::harmless},
    {"huggingface.json", Use::harmless},
    {"chat_template*", Use::harmless},
};

std::string shown(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", value);
    return text;
}

const KnownKey *find(std::span<const KnownKey> table, std::string_view name) {
    const auto known = std::ranges::find_if(table, [&](const KnownKey &key) {
        return key.name.ends_with('*') ? name.starts_with(key.name.substr(0, key.name.size() - 1))
                                       : name == key.name;
    });
    return known == table.end() ? nullptr : &*known;
}

void check(const Gguf &file, std::string_view prefix,
           std::initializer_list<std::span<const KnownKey>> tables,
           std::vector<std::string> *notes) {
    for (const std::string_view key : file.keys()) {
        if (!key.starts_with(prefix)) continue;
        const KnownKey *known = nullptr;
        for (const auto &table : tables)
            if (!known) known = find(table, key.substr(prefix.size()));
        if (!known)
            throw Error("metadata key " + quoted(key) +
                        " isn't known to this engine, which would compute something else without "
                        "it; expected the keys that `itera export` writes: make the file with it, "
                        "or run this one in a program that knows the key");
        if (known->use != Use::fixed && known->use != Use::left_out) continue;
        const std::optional<double> value = file.number(key);
        if (value == known->value || (known->use == Use::left_out && value == 0)) continue;
        const std::string given = value ? shown(*value) : "not a number";
        if (known->use == Use::fixed)
            throw Error("metadata key " + quoted(key) + " is " + given + "; expected " +
                        shown(known->value) + ": this engine has nothing else");
        notes->push_back(std::string(key) + "=" + given +
                         " is left out, as llama.cpp leaves it out in models of this kind");
    }
}

}  // namespace

void check_whole_model(const Gguf &file) {
    if (const uint64_t parts = file.uint_or("split.count", 1); parts > 1)
        throw Error("is part " + std::to_string(file.uint_or("split.no", 0) + 1) + " of " +
                    std::to_string(parts) +
                    " of a split model; expected one whole file: merge the parts with llama.cpp's "
                    "`llama-gguf-split --merge FIRST-PART WHOLE.gguf`");
    if (const auto type = file.string_or("general.type", "model"); type != "model")
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
