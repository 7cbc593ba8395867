// Memory that is taken at once and handed out in parts.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gguf/mapping.h"

namespace itera {

template <class N> constexpr N round_up(N n, size_t to) { return N((n + to - 1) / to * to); }

// The memory of a model's weights, of a state or of a session. Sizes have 64 bits on every machine:
// a file's numbers make them larger than 32 bits can count, which must be refused, not cut off.
class Arena {
  public:
    Arena() = default;
    explicit Arena(uint64_t bytes);  // throws `Error` where there is no such memory
    Arena(Arena &&other) noexcept;
    Arena &operator=(Arena &&other) noexcept;
    ~Arena();
    // Zeros, aligned to 64. An arena without memory only counts, and gives null.
    std::byte *take(uint64_t bytes);
    template <class T> T *take(uint64_t count) {
        return reinterpret_cast<T *>(take(count * sizeof(T)));
    }
    uint64_t used() const { return used_; }

  private:
    Mapping memory_{0};
    uint64_t used_ = 0;
};

}  // namespace itera
