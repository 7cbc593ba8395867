// Cuts text into the pieces of GPT-2's pre-tokenizer, without a regex engine. Its pattern:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// Bytes that aren't UTF-8 end the text as far as the pattern sees; each is a piece of its own.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/unicode.h"

namespace itera {

class PreTokenizer {
  public:
    explicit PreTokenizer(std::string_view text) : text_(text) {}

    // The next piece; empty at the end of the text.
    std::string_view next() {
        const size_t begin = at_;
        at_ = end_of_piece(begin);
        return text_.substr(begin, at_ - begin);
    }

  private:
    // `None`: the end of the text, or a byte that isn't UTF-8.
    enum class Kind : uint8_t { Other, Letter, Number, Space, None };
    struct Char {
        Kind kind;
        uint8_t length;  // in bytes
    };

    static Kind kind_of(uint32_t point) {
        const auto *after = std::upper_bound(std::begin(kCharRuns), std::end(kCharRuns),
                                             point << 2 | 3);
        return static_cast<Kind>(after[-1] & 3);
    }

    // Text is mostly ASCII: its kinds are looked up, not searched for.
    static const std::array<Kind, 128> &ascii_kinds() {
        static const auto kinds = [] {
            std::array<Kind, 128> result{};
            for (uint32_t point = 0; point < 128; ++point) result[point] = kind_of(point);
            return result;
        }();
        return kinds;
    }

    uint8_t byte(size_t i) const { return static_cast<uint8_t>(text_[i]); }

    Char char_at(size_t i) const {
        if (i >= text_.size()) return {Kind::None, 0};
        const uint8_t lead = byte(i);
        if (lead < 0x80) return {ascii_[lead], 1};
        if (lead < 0xC2 || lead > 0xF4) return {Kind::None, 1};
        const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
        if (text_.size() - i < static_cast<size_t>(length)) return {Kind::None, 1};
        uint32_t point = lead & (0x7Fu >> length);
        for (size_t k = 1; k < static_cast<size_t>(length); ++k) {
            if ((byte(i + k) & 0xC0) != 0x80) return {Kind::None, 1};
            point = point << 6 | (byte(i + k) & 0x3Fu);
        }
        const bool overlong = (length == 3 && point < 0x800) || (length == 4 && point < 0x10000);
        const bool surrogate = point >= 0xD800 && point < 0xE000;
        if (overlong || surrogate || point > 0x10FFFF) return {Kind::None, 1};
        return {kind_of(point), static_cast<uint8_t>(length)};
    }

    size_t end_of_run(size_t i, Kind kind) const {
        for (Char c; (c = char_at(i)).kind == kind;) i += c.length;
        return i;
    }

    size_t contraction(size_t i) const {  // length of 's, 't, 're, 've, 'm, 'll, 'd at i, or 0
        const std::string_view rest = text_.substr(i + 1, 2);
        if (rest.empty()) return 0;
        if (rest[0] == 's' || rest[0] == 't' || rest[0] == 'm' || rest[0] == 'd') return 2;
        return rest == "re" || rest == "ve" || rest == "ll" ? 3 : 0;
    }

    size_t end_of_piece(size_t i) const {
        const Char first = char_at(i);
        if (first.kind == Kind::None) return i + first.length;
        if (first.kind != Kind::Space) {
            const size_t length = text_[i] == '\'' ? contraction(i) : 0;
            return length != 0 ? i + length : end_of_run(i + first.length, first.kind);
        }
        const Char second = char_at(i + first.length);
        if (text_[i] == ' ' && second.kind != Kind::Space && second.kind != Kind::None) {
            return end_of_run(i + first.length + second.length, second.kind);
        }
        size_t last = i, end = i;  // where the last white space begins and ends
        for (Char c; (c = char_at(end)).kind == Kind::Space; end += c.length) last = end;
        // The last one before a word is left to it, unless it is alone.
        return char_at(end).kind == Kind::None || last == i ? end : last;
    }

    std::string_view text_;
    size_t at_ = 0;
    const std::array<Kind, 128> &ascii_ = ascii_kinds();
};

}  // namespace itera
