// What fuzz_load.cc and replay.cc share.
#pragma once

#include <cstddef>
#include <span>
#include <string>

// Opens the bytes as a model and uses it. Empty where that went well, else the `Error`'s message.
// Any other exception passes through.
std::string outcome(std::span<const std::byte> bytes);
