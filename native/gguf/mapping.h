// Memory of a file's size: a file's bytes mapped read-only, or room for bytes that are computed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "gguf/error.h"

namespace itera {

class Mapping {
  public:
    // Throws `Error` where the file can't be opened or isn't a regular file.
    explicit Mapping(const std::string &path);
    // Zeros that may be written, aligned to 64. The system gives a page where it is touched first,
    // so that room which isn't used costs nothing. Throws `Error` where there isn't so much memory.
    explicit Mapping(uint64_t size);
    Mapping(Mapping &&other) noexcept
        : bytes_(std::exchange(other.bytes_, {})), of_file_(other.of_file_) {}
    Mapping &operator=(Mapping &&other) noexcept {
        std::swap(bytes_, other.bytes_);
        std::swap(of_file_, other.of_file_);
        return *this;
    }
    ~Mapping();

    std::span<const std::byte> bytes() const { return bytes_; }
    std::byte *data() { return bytes_.data(); }  // of zeros
    // Drops the pages that hold `part` from memory. A file's are read again where they are
    // touched; of other memory, `part` is lost, and its neighbours on the first and last page stay.
    void release(std::span<const std::byte> part) const;

  private:
    void map(uint64_t size, int protection, int flags, int file);

    std::span<std::byte> bytes_;
    bool of_file_;
};

}  // namespace itera
