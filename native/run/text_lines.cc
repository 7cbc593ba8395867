#include "run/text_lines.h"

#include <algorithm>

#include "gguf/error.h"
#include "text/utf8.h"

namespace itera {
namespace {

// As Python's `str.isspace`.
bool is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0d) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_blank(std::string_view text) {
    while (!text.empty()) {
        const Character c = first_character(text);
        if (!c.is_valid || !is_space(c.point)) return false;
        text.remove_prefix(c.bytes);
    }
    return true;
}

// The text in UTF-8: each longest beginning of a character that isn't one becomes U+FFFD, as
// Python's `bytes.decode("utf-8", "replace")` does it.
std::string repaired_utf8(std::string_view bytes) {
    std::string text;
    text.reserve(bytes.size());
    while (!bytes.empty()) {
        const Character c = first_character(bytes);
        text += c.is_valid ? bytes.substr(0, c.bytes) : "\xef\xbf\xbd";
        bytes.remove_prefix(c.bytes);
    }
    return text;
}

}  // namespace

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
