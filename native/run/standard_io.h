// Standard input and output of itera-run. Every failed read or write is an error.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace itera {

// Nobody reads the output any more: the program ends without a message.
struct BrokenPipe : std::runtime_error {
    BrokenPipe() : std::runtime_error("broken pipe") {}
};

// To be called first. A standard stream that is closed stays unusable, so that no file that is
// opened later takes its number; and a broken pipe becomes an error instead of a signal.
void guard_standard_streams();

// Writes all of the text at once. Throws `BrokenPipe`, or `Error` where it can't be written.
void write_output(std::string_view text);
// A line of at most 255 bytes, with the format of printf.
[[gnu::format(printf, 1, 2)]] std::string formatted(const char *format, ...);

// All of a file, or of standard input for "-". Throws `Error` where it can't be read.
std::string read_input(const std::string &path);

}  // namespace itera
