// A GGUF file (versions 2 and 3, little endian), memory-mapped and distrusted; or one in gzip's
// format, inflated (gzip.h).
//
// Every count, offset, size, type and string is checked before use; the first thing that is wrong
// ends in an `Error`. Nothing is allocated beyond a small constant times the file's size.
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/error.h"
#include "gguf/mapping.h"
#include "gguf/parse.h"
#include "gguf/tensor.h"

namespace itera {

class Gguf {
  public:
    // Maps the file. Throws `Error` where it can't be read or isn't valid.
    explicit Gguf(const std::string &path);
    // Reads bytes that the caller keeps alive (fuzzing).
    explicit Gguf(std::span<const std::byte> bytes);

    uint64_t file_size() const { return file_size_; }  // compressed, where the file is

    const std::vector<Tensor> &tensors() const { return parts_.tensors; }
    // nullptr where there is none. Both forms count the tensor as used.
    const Tensor *find_tensor(std::string_view name) const;
    // Throws `Error` that names the tensor where it is missing or has another shape.
    const Tensor &tensor(std::string_view name, std::initializer_list<uint64_t> shape) const;
    const Tensor *first_unused() const;  // nullptr where every tensor was used
    // Tells the kernel that the tensor isn't needed any more, so that its pages don't count as
    // resident. Nothing may read it after that: of an inflated file it is lost.
    void release(const Tensor &tensor) const;

    const std::vector<Entry> &entries() const { return parts_.entries; }
    bool has(std::string_view key) const { return find_entry(key) != nullptr; }
    // A metadata value. T is uint64_t, int64_t, double, bool or std::string_view; an integer of any
    // width is taken where it fits, a float is finite. Throws `Error` where the value has another
    // type, and `need` where the key is missing.
    template <class T> T need(std::string_view key) const { return read<T>(need_entry(key)); }
    template <class T> T get(std::string_view key, T otherwise) const {
        const Entry *entry = find_entry(key);
        return entry != nullptr ? read<T>(*entry) : otherwise;
    }
    std::vector<std::string_view> need_strings(std::string_view key) const;  // an array of strings
    // An array of integers; a single integer becomes an array of one.
    std::vector<int64_t> need_ints(std::string_view key) const;
    // The same for a key's entry, which is a single value.
    template <class T> static T read(const Entry &entry);

  private:
    const Entry *find_entry(std::string_view key) const;
    const Entry &need_entry(std::string_view key) const;

    explicit Gguf(Mapping file);

    uint64_t file_size_;
    std::optional<Mapping> mapping_;   // of the file, or inflated; none over the caller's memory
    std::span<const std::byte> bytes_;  // of the GGUF
    Parts parts_;
    mutable std::vector<bool> used_;  // of each tensor
};

template <> uint64_t Gguf::read(const Entry &entry);
template <> int64_t Gguf::read(const Entry &entry);
template <> double Gguf::read(const Entry &entry);
template <> bool Gguf::read(const Entry &entry);
template <> std::string_view Gguf::read(const Entry &entry);

// A number or a boolean (0 or 1); nothing where the value is of another kind.
std::optional<double> number(const Entry &entry);

}  // namespace itera
