// Files in gzip's format (RFC 1952), which hold a model in fewer bytes; distrusted as GGUF is.
#pragma once

#include <cstddef>
#include <span>

#include "gguf/mapping.h"

namespace itera {

// Whether the bytes begin as gzip's do.
bool is_gzip(std::span<const std::byte> bytes);

// What the bytes hold, its checksum compared. They are one gzip member, as gzip and `itera export`
// write it, and nothing after it. Throws `Error` where they are damaged, cut short or followed by
// more, or hold more than 64 times their own size and 1 MiB, which no trained weights do.
Mapping gunzip(std::span<const std::byte> bytes);

}  // namespace itera
