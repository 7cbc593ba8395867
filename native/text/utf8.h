// Characters of UTF-8 (Unicode, table 3-7), and of bytes that aren't.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace itera {

struct Character {
    uint8_t bytes;   // that it takes; where invalid, those that begin like a character, at least 1
    bool is_valid;
    uint32_t point;  // of a valid one
};

// The character at the beginning of `text`, which isn't empty.
inline Character first_character(std::string_view text) {
    const auto lead = uint8_t(text[0]);
    if (lead < 0x80) return {1, true, lead};
    if (lead < 0xc2 || lead > 0xf4) return {1, false, 0};
    const uint8_t whole = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    uint32_t point = lead & (0xffu >> (whole + 1));
    for (uint8_t i = 1; i < whole; i++) {
        // No overlong forms, no surrogates, nothing beyond U+10FFFF.
        const uint8_t low = i > 1 ? 0x80 : lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
        const uint8_t high = i > 1 ? 0xbf : lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
        if (i == text.size() || uint8_t(text[i]) < low || uint8_t(text[i]) > high)
            return {i, false, 0};
        point = point << 6 | (uint8_t(text[i]) & 0x3f);
    }
    return {whole, true, point};
}

}  // namespace itera
