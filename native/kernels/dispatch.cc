// Chooses the kernels by the instruction sets of the processor.
#include <bit>
#include <cstdlib>
#include <string>
#if defined(ITERA_ARM) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "gguf/error.h"
#include "kernels/kernels.h"

namespace itera {

#if defined(ITERA_ARM)
namespace {

bool has_dot_product() {
#if defined(__linux__)
    constexpr unsigned long kAsimdDp = 1ul << 20;  // HWCAP_ASIMDDP
    return getauxval(AT_HWCAP) & kAsimdDp;
#else
    return true;  // every Mac with an Apple processor has it
#endif
}

}  // namespace
#endif

const Kernels *kernels_named(std::string_view name) {
    if (name == "portable") return &kPortable;
#if defined(ITERA_X86)
    if (name == "avx512" && __builtin_cpu_supports("avx512f") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni"))
        return &kAvx512;
    // F16C is older than AVX2; clang 14 can't ask for it.
    if (name == "avx2" && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return &kAvx2;
#elif defined(ITERA_ARM)
    if (name == "neon" && has_dot_product()) return &kNeon;
#elif defined(__wasm_simd128__)
    if (name == "wasm-simd128") return &kWasm;
#endif
    return nullptr;
}

namespace {

const Kernels &choose() {
    if (const char *wanted = std::getenv("ITERA_ISA"); wanted && *wanted) {
        if (const Kernels *found = kernels_named(wanted)) return *found;
        throw Error(std::string("ITERA_ISA=") + wanted +
                    ": this processor or build has no such kernels; expected portable, avx2, "
                    "avx512, neon or wasm-simd128, or nothing for the fastest");
    }
    for (const char *name : {"avx512", "avx2", "neon", "wasm-simd128"})
        if (const Kernels *found = kernels_named(name)) return *found;
    return kPortable;
}

}  // namespace

const Kernels &kernels() {
    static const Kernels &chosen = choose();
    return chosen;
}

float half_to_float(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000) << 16;
    const uint32_t exponent = (bits >> 10) & 31, mantissa = bits & 1023;
    const uint32_t magnitude =
        exponent == 31 ? 0x7f800000 | mantissa << 13
        : exponent     ? (exponent + 112) << 23 | mantissa << 13
                       : std::bit_cast<uint32_t>(float(mantissa) * 0x1p-24f);  // subnormal
    return std::bit_cast<float>(sign | magnitude);
}

}  // namespace itera
