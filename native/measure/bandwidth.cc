#include "measure/bandwidth.h"

#include <chrono>
#include <cstring>

#include "gguf/error.h"
#include "kernels/kernels.h"
#include "model/arena.h"

namespace itera {

namespace {

constexpr size_t kUnit = 256, kLeast = 1 << 10, kMost = 1 << 30;
constexpr size_t kBetweenClocks = 8 << 20;  // bytes read between two looks at the clock

}  // namespace

double read_bandwidth(size_t bytes, double seconds) {
    if (bytes < kLeast || bytes > kMost || !(seconds > 0 && seconds <= 60))
        throw UsageError("read_bandwidth of " + std::to_string(bytes) + " bytes for " +
                         std::to_string(seconds) +
                         " s: expected 1 KiB to 1 GiB, and more than 0 to 60 s");
    bytes -= bytes % kUnit;
    Arena arena(bytes);
    std::byte *buffer = arena.take(bytes);
    std::memset(buffer, 1, bytes);  // real pages, not one page of zeros many times
    const auto read = kernels().read_bytes;
    using Clock = std::chrono::steady_clock;
    const size_t passes = kBetweenClocks / bytes + 1;
    volatile uint64_t keep = read(buffer, bytes);
    const auto begin = Clock::now();
    double elapsed, total = 0;
    do {
        for (size_t i = 0; i < passes; i++) keep = keep ^ read(buffer, bytes);
        total += double(passes) * double(bytes);
        elapsed = std::chrono::duration<double>(Clock::now() - begin).count();
    } while (elapsed < seconds);
    return total / elapsed;
}

}  // namespace itera
