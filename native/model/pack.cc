#include "model/pack.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "gguf/finite.h"

#if defined(__has_feature)  // clang; gcc defines the macro by itself
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
// The sanitizer knows nothing of an arena's parts by itself: what lies between them is forbidden.
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

namespace {

constexpr size_t align64(size_t n) { return (n + 63) & ~size_t(63); }

size_t file_row_bytes(TensorType type, uint64_t columns) {
    switch (type) {
    case TensorType::F32: return columns * 4;
    case TensorType::F16:
    case TensorType::BF16: return columns * 2;
    case TensorType::Q8_0: return columns / kBlock * 34;
    case TensorType::Q4_0: return columns / kBlock * 18;
    }
    return 0;
}

// Row `r` of the file to lane `lane` of a group.
void place_row(const std::byte *row, TensorType type, uint64_t columns, uint32_t lane,
               uint8_t flip, std::byte *group) {
    const uint64_t blocks = columns / kBlock;
    switch (type) {
    case TensorType::F32:
        for (uint64_t c = 0; c < columns; c++)
            std::memcpy(group + (c * kLanes + lane) * 4, row + c * 4, 4);
        break;
    case TensorType::F16:
    case TensorType::BF16:
        for (uint64_t c = 0; c < columns; c++)
            std::memcpy(group + (c * kLanes + lane) * 2, row + c * 2, 2);
        break;
    case TensorType::Q8_0:
        for (uint64_t b = 0; b < blocks; b++, row += 34) {
            std::memcpy(group + blocks * 512 + (b * kLanes + lane) * 2, row, 2);
            auto *to = reinterpret_cast<uint8_t *>(group) + b * 512 + lane * 4;
            for (int c = 0; c < 32; c++) {
                auto w = int8_t(row[2 + c]);
                if (w == -128) w = -127;  // no writer makes it, and AVX2 can't multiply it
                to[(c / 4) * 64 + c % 4] = uint8_t(w) ^ flip;
            }
        }
        break;
    case TensorType::Q4_0:
        for (uint64_t b = 0; b < blocks; b++, row += 18) {
            std::memcpy(group + blocks * 256 + (b * kLanes + lane) * 2, row, 2);
            auto *to = reinterpret_cast<uint8_t *>(group) + b * 256 + lane * 4;
            for (int c = 0; c < 16; c++) to[(c / 4) * 64 + c % 4] = uint8_t(row[2 + c]);
        }
        break;
    }
}

// Rows [first, first + n) of the tensor into the groups from `to` on.
void place_rows(const Tensor &tensor, uint64_t first, uint32_t n, uint8_t flip, std::byte *to) {
    const size_t row_bytes = file_row_bytes(tensor.type, tensor.columns());
    const size_t step = group_bytes(tensor.type, tensor.columns());
    const std::byte *row = tensor.data.data() + first * row_bytes;
    for (uint32_t r = 0; r < n; r++, row += row_bytes)
        place_row(row, tensor.type, tensor.columns(), r % kLanes, flip, to + r / kLanes * step);
}

uint64_t all_rows(const Tensor &t) { return t.shape[0] * t.shape[1] * t.shape[2]; }

uint32_t checked_rows(uint64_t rows, const Tensor &tensor) {
    if (rows > UINT32_MAX - kLanes || tensor.columns() > UINT32_MAX / 2)
        throw Error("tensor '" + std::string(tensor.name) + "' has too many rows or columns");
    return uint32_t(rows);
}

}  // namespace

Arena::Arena(size_t bytes) : size_(align64(bytes) + 64) {
    void *at = mmap(nullptr, size_, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED) throw Error("no memory for " + std::to_string(size_) + " bytes");
    base_ = static_cast<std::byte *>(at);
    forbid(base_, size_);
}
Arena::Arena(Arena &&other) noexcept
    : base_(std::exchange(other.base_, nullptr)), size_(std::exchange(other.size_, 0)),
      used_(std::exchange(other.used_, 0)) {}
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
    bytes = align64(bytes);
    if (!base_) {
        used_ += bytes + kGap;
        return nullptr;
    }
    if (bytes + kGap > size_ - used_) throw Error("internal: the memory plan was too small");
    std::byte *part = base_ + std::exchange(used_, used_ + bytes + kGap);
    permit(part, bytes);
    return part;
}

size_t group_bytes(TensorType type, uint64_t columns) {
    return align64(file_row_bytes(type, columns) * kLanes);
}

size_t packed_bytes(const Tensor &tensor) {
    // A stack of experts fills up the last group of each of its parts.
    const uint64_t parts = tensor.shape[0] * tensor.shape[1];
    const uint64_t groups = parts * ((tensor.rows() + kLanes - 1) / kLanes);
    const size_t as_matrix = groups * group_bytes(tensor.type, tensor.columns());
    const size_t as_floats = align64(all_rows(tensor) * tensor.columns() * 4);
    const bool small = parts * tensor.rows() <= 8;  // a vector, a convolution's taps
    const bool thin = tensor.columns() <= 8;  // taps, which are turned into rows: twice
    return std::max(as_matrix, thin ? 2 * as_floats : small ? as_floats : 0);
}

Matrix pack(const Tensor &tensor, Arena &arena, const Kernels &kernels, uint32_t stack) {
    refuse_not_finite(tensor);
    Matrix m;
    const uint32_t total = checked_rows(all_rows(tensor), tensor);
    const uint32_t part = stack ? stack : total;
    const uint32_t parts = total / part;
    const uint32_t groups = (part + kLanes - 1) / kLanes;
    m.type = tensor.type;
    m.columns = uint32_t(tensor.columns());
    m.rows = stack ? parts * groups * kLanes : total;
    m.group_bytes = group_bytes(tensor.type, tensor.columns());
    std::byte *to = arena.take(parts * groups * m.group_bytes);
    for (uint32_t p = 0; p < parts; p++)
        place_rows(tensor, uint64_t(p) * part, part, kernels.flip, to + p * groups * m.group_bytes);
    m.data = to;
    return m;
}

Matrix pack_pair(const Tensor &gate, const Tensor &up, Arena &arena, const Kernels &kernels,
                 uint32_t stack) {
    if (gate.type != up.type)
        throw Error("tensors '" + std::string(gate.name) + "' and '" + std::string(up.name) +
                    "' have types " + type_name(gate.type) + " and " + type_name(up.type) +
                    ": expected one type for both");
    refuse_not_finite(gate);
    refuse_not_finite(up);
    Matrix m;
    const uint32_t total = checked_rows(all_rows(gate) * 2, gate) / 2;
    const uint32_t parts = total / stack, groups = (stack + kLanes - 1) / kLanes;
    m.type = gate.type;
    m.columns = uint32_t(gate.columns());
    m.rows = 2 * parts * groups * kLanes;
    m.group_bytes = group_bytes(gate.type, gate.columns());
    std::byte *to = arena.take(2 * parts * groups * m.group_bytes);
    m.data = to;
    for (uint32_t p = 0; p < parts; p++)
        for (const Tensor *half : {&gate, &up}) {
            place_rows(*half, uint64_t(p) * stack, stack, kernels.flip, to);
            to += groups * m.group_bytes;
        }
    return m;
}

float *pack_floats(const Tensor &tensor, Arena &arena) {
    refuse_not_finite(tensor);
    const size_t n = all_rows(tensor) * tensor.columns();
    auto *out = reinterpret_cast<float *>(arena.take(n * 4));
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        switch (tensor.type) {
        case TensorType::F32: std::memcpy(out + i, tensor.data.data() + 4 * i, 4); break;
        case TensorType::F16:
            std::memcpy(&half, tensor.data.data() + 2 * i, 2);
            out[i] = half_to_float(half);
            break;
        case TensorType::BF16:
            std::memcpy(&half, tensor.data.data() + 2 * i, 2);
            out[i] = std::bit_cast<float>(uint32_t(half) << 16);
            break;
        default:
            throw Error("tensor '" + std::string(tensor.name) + "' has type " +
                        type_name(tensor.type) + ": expected F32, F16 or BF16");
        }
    }
    return out;
}

void unpack_row(const Matrix &m, uint32_t row, uint8_t flip, float *out) {
    const std::byte *group = m.data + row / kLanes * m.group_bytes;
    const uint32_t lane = row % kLanes, blocks = m.columns / kBlock;
    uint16_t half;
    switch (m.type) {
    case TensorType::F32:
        for (uint32_t c = 0; c < m.columns; c++)
            std::memcpy(out + c, group + (c * kLanes + lane) * 4, 4);
        break;
    case TensorType::F16:
    case TensorType::BF16:
        for (uint32_t c = 0; c < m.columns; c++) {
            std::memcpy(&half, group + (c * kLanes + lane) * 2, 2);
            out[c] = m.type == TensorType::F16 ? half_to_float(half)
                                               : std::bit_cast<float>(uint32_t(half) << 16);
        }
        break;
    case TensorType::Q8_0:
        for (uint32_t b = 0; b < blocks; b++) {
            std::memcpy(&half, group + blocks * 512 + (b * kLanes + lane) * 2, 2);
            const float scale = half_to_float(half);
            const auto *q = reinterpret_cast<const uint8_t *>(group) + b * 512 + lane * 4;
            for (uint32_t c = 0; c < kBlock; c++)
                *out++ = scale * float(int8_t(q[(c / 4) * 64 + c % 4] ^ flip));
        }
        break;
    case TensorType::Q4_0:
        for (uint32_t b = 0; b < blocks; b++) {
            std::memcpy(&half, group + blocks * 256 + (b * kLanes + lane) * 2, 2);
            const float scale = half_to_float(half);
            const auto *q = reinterpret_cast<const uint8_t *>(group) + b * 256 + lane * 4;
            for (uint32_t c = 0; c < kBlock; c++) {
                const uint8_t both = q[(c % 16 / 4) * 64 + c % 4];
                *out++ = scale * float(int(c < 16 ? both & 15 : both >> 4) - 8);
            }
        }
        break;
    }
}

}  // namespace itera
