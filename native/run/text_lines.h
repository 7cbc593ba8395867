// Documents from plain text, one a line, by the rules of itera_lite/data/lines.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace itera {

struct TextLine {
    uint64_t number;  // in the input, from 1
    std::string text;
};

// A byte order mark at the beginning and the CR of a CRLF are dropped. What isn't UTF-8 becomes
// U+FFFD. Lines of white space only are left out. Throws `Error` for a line with a NUL byte.
std::vector<TextLine> text_lines(std::string_view input);

}  // namespace itera
