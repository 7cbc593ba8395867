#include "model/arena.h"

#include <sys/mman.h>

#include <utility>

#include "gguf/error.h"

#ifdef ITERA_ASAN  // fuzz/Makefile
// The sanitizer doesn't know an arena's parts by itself: what lies between them is forbidden.
extern "C" void __asan_poison_memory_region(const volatile void *, size_t);
extern "C" void __asan_unpoison_memory_region(const volatile void *, size_t);
static constexpr size_t kGap = 64;
static void forbid(std::byte *at, size_t n) { __asan_poison_memory_region(at, n); }
static void permit(std::byte *at, size_t n) { __asan_unpoison_memory_region(at, n); }
#else
static constexpr size_t kGap = 0;
static void forbid(std::byte *, size_t) {}
static void permit(std::byte *, size_t) {}
#endif

namespace itera {

Arena::Arena(size_t bytes) : size_(round_up(bytes, 64) + 64) {
    void *at = mmap(nullptr, size_, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw Error("no memory for " + std::to_string(size_) + " bytes");
    base_ = static_cast<std::byte *>(at);
    forbid(base_, size_);
}
Arena::Arena(Arena &&other) noexcept { *this = std::move(other); }
Arena &Arena::operator=(Arena &&other) noexcept {
    std::swap(base_, other.base_);
    std::swap(size_, other.size_);
    std::swap(used_, other.used_);
    return *this;
}
Arena::~Arena() {
    if (!base_) return;
    permit(base_, size_);  // something else may be mapped here next
    munmap(base_, size_);
}
std::byte *Arena::take(size_t bytes) {
    bytes = round_up(bytes, 64);
    if (!base_) {
        used_ += bytes + kGap;
        return nullptr;
    }
    if (bytes + kGap > size_ - used_) throw Error("internal: the memory plan was too small");
    std::byte *part = base_ + std::exchange(used_, used_ + bytes + kGap);
    permit(part, bytes);
    return part;
}

}  // namespace itera
