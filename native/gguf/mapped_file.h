// A file's bytes, mapped read-only.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "gguf/error.h"

namespace itera {

class MappedFile {
  public:
    // Throws `Error` where the file can't be opened or isn't a regular file.
    explicit MappedFile(const std::string &path);
    MappedFile(const MappedFile &) = delete;
    MappedFile &operator=(const MappedFile &) = delete;
    ~MappedFile();

    std::span<const std::byte> bytes() const { return bytes_; }
    // Drops the pages that hold `part` from memory; they are read again where they are touched.
    void release(std::span<const std::byte> part) const;

  private:
    std::span<const std::byte> bytes_;
};

}  // namespace itera
