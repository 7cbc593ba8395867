// A GGUF file (versions 2 and 3, little endian), memory-mapped and distrusted.
//
// Every count, offset, size, type and string is checked before use; the first thing that is wrong
// ends in an `Error`. Nothing is allocated beyond a small constant times the file's size.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/error.h"

namespace itera {

// The end of a message about what is no such file.
inline constexpr const char *kExpected =
    "; expected a GGUF file: make one of a model with `itera export`";

enum class TensorType : uint32_t { F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, BF16 = 30 };

const char *type_name(TensorType type);

struct Tensor {
    std::string_view name;
    TensorType type;
    // PyTorch order, outermost first, unused ones in front are 1: a matrix is
    // {1, 1, rows, columns}, a stack of experts {1, E, rows, columns}, a vector {1, 1, 1, n}.
    // Rows are contiguous.
    uint64_t shape[4];
    std::span<const std::byte> data;

    uint64_t columns() const { return shape[3]; }
    uint64_t rows() const { return shape[2]; }
};

class Gguf {
  public:
    // Maps the file. Throws `Error` where it can't be read or isn't valid.
    static Gguf open(const std::string &path);
    // The same over bytes that the caller keeps alive, at an address divisible by 8 (tests,
    // fuzzing).
    static Gguf from_memory(std::span<const std::byte> bytes);
    Gguf(Gguf &&) noexcept;
    Gguf &operator=(Gguf &&) noexcept;
    ~Gguf();

    uint64_t file_size() const;
    const std::vector<Tensor> &tensors() const;
    // nullptr where there is none. `find` and `need` count the tensor as used.
    const Tensor *find(std::string_view name) const;
    // Throws `Error` that names the tensor where it is missing or has another shape.
    const Tensor &need(std::string_view name, std::initializer_list<uint64_t> shape) const;

    const Tensor *first_unused() const;  // nullptr where every tensor was used

    // Metadata. A `need` form throws where the key is missing; every form throws where it has
    // another type. Integers of all widths are taken where the value fits; floats are finite.
    uint64_t need_uint(std::string_view key) const;
    uint64_t uint_or(std::string_view key, uint64_t otherwise) const;
    int64_t int_or(std::string_view key, int64_t otherwise) const;
    double need_float(std::string_view key) const;
    double float_or(std::string_view key, double otherwise) const;
    bool bool_or(std::string_view key, bool otherwise) const;
    std::string_view need_string(std::string_view key) const;
    std::string_view string_or(std::string_view key, std::string_view otherwise) const;
    std::vector<std::string_view> need_strings(std::string_view key) const;  // array of strings
    // An array of integers; a single integer becomes an array of one.
    std::vector<int64_t> need_ints(std::string_view key) const;

    bool has(std::string_view key) const;
    std::vector<std::string_view> keys() const;
    // A number or a boolean (0 or 1); nothing where the value is of another kind.
    std::optional<double> number(std::string_view key) const;

    // Tells the kernel that the tensor's pages aren't needed any more, so that they don't count
    // as resident; they are read again from the file if they are touched.
    void release(const Tensor &tensor) const;

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
    explicit Gguf(std::unique_ptr<Impl> impl);
};

}  // namespace itera
