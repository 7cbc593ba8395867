// The error type of the engine. A message holds what was given, what was expected and what to do.
//
// A message about a file doesn't name the file: whoever opened it puts the path in front, with
// `naming`.
#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

namespace itera {

// The end of a message about a file of another kind.
inline constexpr const char *kExpected =
    "; expected a GGUF file: make one of a model with `itera export`";

struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// A mistake of the caller: an option out of its range, a text that is too long.
struct UsageError : Error {
    using Error::Error;
};

// Returns `work()`. An `Error` that it throws gets the path in front, a `UsageError` doesn't.
template <class Work> auto naming(const std::string &path, Work work) {
    try {
        return work();
    } catch (const UsageError &) {
        throw;
    } catch (const Error &error) {
        throw Error(path + ": " + error.what());
    }
}

// The message of a system error, such as `errno`.
inline std::string reason(int code) { return std::generic_category().message(code); }

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
