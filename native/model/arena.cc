#include "model/arena.h"

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

Arena::Arena(uint64_t bytes) : memory_(round_up(bytes, 64) + 64) {
    forbid(memory_.data(), memory_.bytes().size());
}
Arena::Arena(Arena &&other) noexcept { *this = std::move(other); }
Arena &Arena::operator=(Arena &&other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(used_, other.used_);
    return *this;
}
Arena::~Arena() {
    permit(memory_.data(), memory_.bytes().size());  // something else may be mapped here next
}
std::byte *Arena::take(uint64_t bytes) {
    bytes = round_up(bytes, 64);
    const uint64_t size = memory_.bytes().size();
    if (!size) {
        used_ += bytes + kGap;
        return nullptr;
    }
    if (bytes + kGap > size - used_) throw Error("internal: the memory plan was too small");
    std::byte *part = memory_.data() + std::exchange(used_, used_ + bytes + kGap);
    permit(part, bytes);
    return part;
}

}  // namespace itera
