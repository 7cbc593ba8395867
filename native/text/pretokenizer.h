// Cuts text into the pieces of GPT-2's pre-tokenizer, without a regex engine. Its pattern:
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// A byte that isn't UTF-8 is a piece of its own, and to the pattern an end of the text.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "text/unicode.h"
#include "text/utf8.h"

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

    // Text is mostly ASCII: a table is faster than the search.
    static const std::array<Kind, 128> &ascii_kinds() {
        static const auto kinds = [] {
            std::array<Kind, 128> result{};
            for (uint32_t point = 0; point < 128; ++point) result[point] = kind_of(point);
            return result;
        }();
        return kinds;
    }

    Char char_at(size_t i) const {
        if (i >= text_.size()) return {Kind::None, 0};
        if (const auto byte = uint8_t(text_[i]); byte < 0x80) return {ascii_[byte], 1};
        const Character c = first_character(text_.substr(i));
        if (!c.is_valid) return {Kind::None, 1};
        return {kind_of(c.point), c.bytes};
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
        // The last white space before a word belongs to the word, unless it is the only one.
        return char_at(end).kind == Kind::None || last == i ? end : last;
    }

    std::string_view text_;
    size_t at_ = 0;
    const std::array<Kind, 128> &ascii_ = ascii_kinds();
};

}  // namespace itera
