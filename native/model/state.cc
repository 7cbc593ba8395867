#include "model/state.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "text/hash.h"

namespace itera {

namespace {

constexpr uint64_t kMagic = 0x3374617473617469;  // "itastat3"

struct Header {
    uint64_t magic, fingerprint, length, bytes, checksum;
};

uint64_t checksum_of(std::string_view bytes) {
    uint64_t sum = kFnvStart;
    while (!bytes.empty()) {
        uint64_t word = 0;
        const size_t n = std::min(sizeof word, bytes.size());
        std::memcpy(&word, bytes.data(), n);
        sum = fnv1a(sum, word);
        sum ^= sum >> 32;  // or the upper bits of a word would never reach the lower ones
        bytes.remove_prefix(n);
    }
    return sum;
}

}  // namespace

State::State(const Model &model) : model_(&model), context_(model.config.context) {
    const Config &c = model.config;
    const uint64_t positions = round_up(context_, kCacheStep);  // kernels read whole steps
    const uint64_t width = round_up(c.head_dim, kLanes) * (model.cache8 ? 1 : sizeof(float));
    uint64_t total = 0;
    const auto areas = [&](uint64_t count, uint64_t fixed, uint64_t per_position) {
        const uint64_t stride = round_up(fixed + per_position * positions, 64);
        const uint64_t begin = std::exchange(total, total + count * stride);
        return Areas{begin, stride, count, fixed, per_position};
    };
    for (const Layer &layer : model.layers) {
        auto &of = layers_.emplace_back();
        if (const size_t heads = layer.n_kv_heads) {
            of[kKeys] = areas(heads, 0, width);
            of[kValues] = areas(heads, 0, width);
            if (!model.cache8) continue;
            of[kKeyScales] = areas(heads, 0, sizeof(float));
            of[kValueScales] = areas(heads, 0, sizeof(float));
        } else {
            of[kWindow] = areas(1, 4 * uint64_t(c.d_conv - 1) * c.conv_channels(), 0);
            of[kSsm] = areas(1, 4 * uint64_t(c.d_inner) * c.d_state, 0);
        }
    }
    arena_ = Arena(total);
    memory_ = arena_.take(total);
}

std::vector<std::span<std::byte>> State::used_parts() const {
    std::vector<std::span<std::byte>> parts;
    const size_t used = round_up(length_, kLanes);
    for (const auto &layer : layers_) {
        const uint64_t heads = std::max(layer[kKeys].count, layer[kWindow].count);
        for (uint64_t h = 0; h < heads; h++)
            for (const Areas &a : layer)
                if (h < a.count)
                    parts.emplace_back(memory_ + a.begin + h * a.stride,
                                       size_t(a.fixed + a.per_position * used));
    }
    return parts;
}

void State::check_model(const Model &model) const {
    if (model_ != &model)
        throw UsageError(
            "a state of another model, or of another instance of it: expected this one's");
}

State State::fork() const {
    State copy(*model_);
    copy.assign(*this);
    return copy;
}

void State::assign(const State &other) {
    other.check_model(*model_);
    const auto from = other.used_parts(), to = used_parts();
    for (size_t i = 0; i < from.size(); i++) {
        std::ranges::copy(from[i], to[i].data());
        if (to[i].size() > from[i].size())  // what it doesn't use is zero
            std::ranges::fill(to[i].subspan(from[i].size()), std::byte{0});
    }
    length_ = other.length_;
}

size_t State::bytes() const {
    constexpr size_t kPage = 4096;
    size_t bytes = 0;
    for (const auto &part : used_parts()) {
        const auto begin = size_t(part.data() - memory_);
        if (!part.empty()) bytes += round_up(begin + part.size(), kPage) - begin / kPage * kPage;
    }
    return bytes;
}

void State::clear() {
    for (const auto &part : used_parts()) std::ranges::fill(part, std::byte{0});
    length_ = 0;
}

std::string State::save() const {
    const auto parts = used_parts();
    Header header{kMagic, model_->fingerprint ^ model_->kernels.flip, length_, 0, 0};
    for (const auto &part : parts) header.bytes += part.size();
    std::string out(sizeof header + header.bytes, '\0');
    char *to = out.data() + sizeof header;
    for (const auto &part : parts) {
        std::memcpy(to, part.data(), part.size());
        to += part.size();
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
    const auto parts = state.used_parts();
    size_t expected = 0;
    for (const auto &part : parts) expected += part.size();
    if (header.bytes != expected || bytes.size() != sizeof header + expected)
        throw Error("a saved state of " + std::to_string(bytes.size()) + " bytes: expected " +
                    std::to_string(sizeof header + expected));
    if (header.checksum != checksum_of(bytes.substr(sizeof header)))
        throw Error("a saved state is damaged: its checksum doesn't match");
    const char *from = bytes.data() + sizeof header;
    for (const auto &part : parts) {
        std::memcpy(part.data(), from, part.size());
        from += part.size();
    }
    return state;
}

}  // namespace itera
