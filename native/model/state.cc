#include "model/state.h"

#include <algorithm>
#include <cstring>

namespace itera {

namespace {

constexpr size_t align64(size_t n) { return (n + 63) & ~size_t(63); }
constexpr uint64_t kMagic = 0x3274617473617469;  // "itastat2"

struct Header {
    uint64_t magic, fingerprint, length, bytes, checksum;
};

// FNV-1a over words: against damage, not against malice.
uint64_t checksum_of(std::string_view bytes) {
    uint64_t sum = 0xcbf29ce484222325;
    while (!bytes.empty()) {
        uint64_t word = 0;
        const size_t n = std::min(sizeof word, bytes.size());
        std::memcpy(&word, bytes.data(), n);
        sum = (sum ^ word) * 0x100000001b3;
        sum ^= sum >> 32;  // or the upper bits of a word would never reach the lower ones
        bytes.remove_prefix(n);
    }
    return sum;
}

}  // namespace

State::State(const Model &model) : model_(&model), context_(model.config.context) {
    const Config &c = model.config;
    // Positions; kernels read whole steps.
    const size_t room = (size_t(context_) + kCacheStep - 1) / kCacheStep * kCacheStep;
    size_t total = 0;
    const auto take = [&total](size_t bytes) {
        const size_t at = total;
        total += align64(bytes);
        return at;
    };
    for (const Layer &layer : model.layers) {
        LayerPlan &p = plan_.emplace_back();
        if (!layer.n_kv_heads) {
            p.window = take(4 * size_t(c.d_conv - 1) * c.conv_channels());
            p.ssm = take(4 * size_t(c.d_inner) * c.d_state);
            continue;
        }
        p.head_keys = align64(room * ((c.head_dim + 15) / 16 * 16) * (model.cache8 ? 1 : 4));
        p.keys = take(layer.n_kv_heads * p.head_keys);
        p.values = take(layer.n_kv_heads * p.head_keys);
        if (model.cache8) {
            p.head_scales = align64(4 * room);
            p.key_scales = take(layer.n_kv_heads * p.head_scales);
            p.value_scales = take(layer.n_kv_heads * p.head_scales);
        }
    }
    arena_ = Arena(total);
    memory_ = arena_.take(total);
}

Cache8 State::cache8(size_t layer, size_t head) {
    const LayerPlan &p = plan_[layer];
    return {at<uint8_t>(p.keys + head * p.head_keys),
            at<float>(p.key_scales + head * p.head_scales),
            at<uint8_t>(p.values + head * p.head_keys),
            at<float>(p.value_scales + head * p.head_scales)};
}

// The parts of the memory that hold something after `length_` tokens.
std::vector<State::Part> State::used_parts() const {
    const Config &c = model_->config;
    std::vector<Part> parts;
    const size_t used = (size_t(length_) + 15) & ~size_t(15);
    for (size_t i = 0; i < plan_.size(); i++) {
        const LayerPlan &p = plan_[i];
        if (const uint32_t heads = model_->layers[i].n_kv_heads) {
            const size_t width = (c.head_dim + 15) / 16 * 16;
            const size_t bytes = used * width * (model_->cache8 ? 1 : 4);
            for (uint32_t h = 0; h < heads; h++) {
                parts.push_back({p.keys + h * p.head_keys, bytes});
                parts.push_back({p.values + h * p.head_keys, bytes});
                if (!model_->cache8) continue;
                parts.push_back({p.key_scales + h * p.head_scales, 4 * used});
                parts.push_back({p.value_scales + h * p.head_scales, 4 * used});
            }
        } else {
            parts.push_back({p.window, 4 * size_t(c.d_conv - 1) * c.conv_channels()});
            parts.push_back({p.ssm, 4 * size_t(c.d_inner) * c.d_state});
        }
    }
    return parts;
}

State State::fork() const {
    State copy(*model_);
    copy.length_ = length_;
    for (const Part &part : used_parts())
        std::memcpy(copy.memory_ + part.begin, memory_ + part.begin, part.bytes);
    return copy;
}

void State::clear() {
    for (const Part &part : used_parts()) std::memset(memory_ + part.begin, 0, part.bytes);
    length_ = 0;
}

std::string State::save() const {
    const std::vector<Part> parts = used_parts();
    Header header{kMagic, model_->fingerprint ^ model_->kernels.flip, length_, 0, 0};
    for (const Part &part : parts) header.bytes += part.bytes;
    std::string out(sizeof header + header.bytes, '\0');
    char *to = out.data() + sizeof header;
    for (const Part &part : parts) {
        std::memcpy(to, memory_ + part.begin, part.bytes);
        to += part.bytes;
    }
    header.checksum = checksum_of(std::string_view(out).substr(sizeof header));
    std::memcpy(out.data(), &header, sizeof header);
    return out;
}

State State::restore(const Model &model, std::string_view bytes) {
    Header header;
    if (bytes.size() < sizeof header) throw Error("a saved state is cut off");
    std::memcpy(&header, bytes.data(), sizeof header);
    if (header.magic != kMagic) throw Error("these bytes are no saved state");
    if (header.fingerprint != (model.fingerprint ^ model.kernels.flip))
        throw Error("the saved state belongs to another model, or to another instruction set");
    State state(model);
    if (header.length > state.context_)
        throw Error("the saved state has " + std::to_string(header.length) +
                    " tokens, this model has room for " + std::to_string(state.context_) +
                    ": load it with a larger context");
    state.length_ = uint32_t(header.length);
    const std::vector<Part> parts = state.used_parts();
    size_t expected = 0;
    for (const Part &part : parts) expected += part.bytes;
    if (header.bytes != expected || bytes.size() != sizeof header + expected)
        throw Error("a saved state of " + std::to_string(bytes.size()) + " bytes: expected " +
                    std::to_string(sizeof header + expected));
    if (header.checksum != checksum_of(bytes.substr(sizeof header)))
        throw Error("a saved state is damaged: its checksum doesn't match");
    const char *from = bytes.data() + sizeof header;
    for (const Part &part : parts) {
        std::memcpy(state.memory_ + part.begin, from, part.bytes);
        from += part.bytes;
    }
    return state;
}

}  // namespace itera
