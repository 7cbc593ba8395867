#include "text/text_stream.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace itera {

namespace {

// Bytes at the end that begin a UTF-8 character which isn't complete.
size_t incomplete(std::string_view text) {
    for (size_t n = 1; n <= std::min<size_t>(3, text.size()); n++) {
        const auto byte = uint8_t(text[text.size() - n]);
        if ((byte & 0xc0) == 0x80) continue;  // in the middle of a character
        if (byte >= 0xf5) return 0;  // begins no character
        const size_t whole = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc2 ? 2 : 1;
        return whole > n ? n : 0;
    }
    return 0;
}

}  // namespace

std::string TextStream::push(std::string_view bytes) {
    if (stopped_) return {};
    held_ += bytes;
    // The stop text that ends first counts, into whatever pieces tokens cut the text.
    size_t end = std::string::npos, begin = 0;
    for (const std::string &stop : stops_) {
        const size_t at = held_.find(stop);
        if (at == std::string::npos) continue;
        if (at + stop.size() < end || (at + stop.size() == end && at < begin)) {
            end = at + stop.size();
            begin = at;
        }
    }
    if (end != std::string::npos) {
        stopped_ = true;
        return std::exchange(held_, {}).substr(0, begin);
    }
    size_t keep = incomplete(held_);
    const std::string_view text = held_;
    for (const std::string &stop : stops_)
        for (size_t n = std::min(stop.size() - 1, text.size()); n > keep; n--)
            if (text.ends_with(std::string_view(stop).substr(0, n))) {
                keep = n;
                break;
            }
    std::string ready = held_.substr(0, held_.size() - keep);
    held_.erase(0, held_.size() - keep);
    return ready;
}

}  // namespace itera
