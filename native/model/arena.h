// Memory that is taken at once and handed out in parts.
#pragma once

#include <cstddef>

namespace itera {

constexpr size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// The memory of a model's weights, of a state or of a session.
class Arena {
  public:
    Arena() = default;
    explicit Arena(size_t bytes);  // throws `Error` where there is no such memory
    Arena(Arena &&other) noexcept;
    Arena &operator=(Arena &&other) noexcept;
    ~Arena();
    // Zeros, aligned to 64. An arena without memory only counts, and gives null.
    std::byte *take(size_t bytes);
    template <class T> T *take(size_t count) {
        return reinterpret_cast<T *>(take(count * sizeof(T)));
    }
    size_t used() const { return used_; }

  private:
    std::byte *base_ = nullptr;
    size_t size_ = 0, used_ = 0;
};

}  // namespace itera
