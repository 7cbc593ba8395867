// gguf/mapping.h where there are no files and no pages: memory is taken and zeroed at once.
#include "gguf/mapping.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace itera {

Mapping::Mapping(const std::string &) : of_file_(true) {
    throw Error("can't be opened: WebAssembly has no files; expected the bytes of one");
}

Mapping::Mapping(uint64_t size) : of_file_(false) {
    if (size == 0) return;
    constexpr uint64_t kAlignment = 64, kMost = SIZE_MAX - kAlignment;
    const auto room = static_cast<size_t>((size + kAlignment - 1) / kAlignment * kAlignment);
    void *start = size > kMost ? nullptr : std::aligned_alloc(kAlignment, room);
    if (start == nullptr) {
        throw Error("needs " + std::to_string(size) +
                    " bytes of memory at once, which WebAssembly doesn't have here; expected a "
                    "smaller model or a shorter context");
    }
    std::memset(start, 0, room);
    bytes_ = {static_cast<std::byte *>(start), static_cast<size_t>(size)};
}

Mapping::~Mapping() { std::free(bytes_.data()); }

void Mapping::release(std::span<const std::byte>) const {}

}  // namespace itera
