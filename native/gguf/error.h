// The error type of the engine: the message says what was given, what was expected, what to do.
//
// A message about a file doesn't name the file: whoever opened it puts the path in front, with
// `naming`.
#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

namespace itera {

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// The same for what the caller asked for: an option out of its range, a text that is too long.
struct UsageError : Error {
    using Error::Error;
};

// What `work` gives; what it throws about the file at `path` gets the path in front.
template <class Work> auto naming(const std::string &path, Work work) {
    try {
        return work();
    } catch (const UsageError &) {
        throw;
    } catch (const Error &error) {
        throw Error(path + ": " + error.what());
    }
}

// Text from a file, fit for a message: in quotes, printable ASCII (the rest as \xNN, so that it
// can't move a terminal's cursor or break a decoder), cut after 80 bytes.
inline std::string quoted(std::string_view text) {
    constexpr size_t longest = 80;
    std::string result = "'";
    for (const char c : text.substr(0, longest)) {
        if (c >= ' ' && c <= '~' && c != '\'' && c != '\\') {
            result += c;
        } else {
            char code[5];
            std::snprintf(code, sizeof code, "\\x%02x", static_cast<unsigned char>(c));
            result += code;
        }
    }
    return result + (text.size() > longest ? "...'" : "'");
}

}  // namespace itera
