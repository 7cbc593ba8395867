#include "run/text_lines.h"

#include <algorithm>

#include "gguf/error.h"

namespace itera {
namespace {

struct Character {
    size_t bytes;    // that it takes, or that are replaced together
    uint32_t point;  // U+FFFD where the bytes are no character
};

constexpr uint32_t kReplacement = 0xfffd;

// The character at the beginning of `text`, which isn't empty.
Character first_character(std::string_view text) {
    const auto lead = uint8_t(text[0]);
    if (lead < 0x80) return {1, lead};
    if (lead < 0xc2 || lead > 0xf4) return {1, kReplacement};
    const size_t whole = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    uint32_t point = lead & (0xffu >> (whole + 1));
    for (size_t i = 1; i < whole; i++) {
        // No overlong forms, no surrogates, nothing beyond U+10FFFF (Unicode, table 3-7).
        const uint8_t low = i > 1 ? 0x80 : lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
        const uint8_t high = i > 1 ? 0xbf : lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        if (i == text.size() || uint8_t(text[i]) < low || uint8_t(text[i]) > high)
            return {i, kReplacement};
        point = point << 6 | (uint8_t(text[i]) & 0x3f);
    }
    return {whole, point};
}

// What Python's `str.isspace` says.
bool is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_blank(std::string_view text) {
    while (!text.empty()) {
        const Character c = first_character(text);
        if (!is_space(c.point)) return false;
        text.remove_prefix(c.bytes);
    }
    return true;
}

}  // namespace

std::string repaired_utf8(std::string_view bytes) {
    std::string text;
    text.reserve(bytes.size());
    while (!bytes.empty()) {
        const Character c = first_character(bytes);
        text += c.point == kReplacement ? std::string_view("\xef\xbf\xbd")
                                        : bytes.substr(0, c.bytes);
        bytes.remove_prefix(c.bytes);
    }
    return text;
}

std::vector<TextLine> text_lines(std::string_view input) {
    std::vector<TextLine> lines;
    for (uint64_t number = 1; !input.empty(); number++) {
        const size_t end = std::min(input.find('\n'), input.size());
        std::string_view line = input.substr(0, end);
        input.remove_prefix(std::min(end + 1, input.size()));
        if (line.find('\0') != line.npos)
            throw Error("line " + std::to_string(number) +
                        " holds NUL bytes: a binary file, or text in UTF-16. Expected UTF-8; "
                        "convert it first");
        if (number == 1 && line.starts_with("\xef\xbb\xbf")) line.remove_prefix(3);
        if (line.ends_with('\r')) line.remove_suffix(1);
        if (!is_blank(line)) lines.push_back({number, repaired_utf8(line)});
    }
    return lines;
}

}  // namespace itera
