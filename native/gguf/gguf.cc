#include "gguf/gguf.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "gguf/gzip.h"

namespace itera {
namespace {

using std::to_string;

[[noreturn]] void wrong_type(const Entry &entry, const char *expected) {
    throw Error("metadata key " + quoted(entry.key) + " is " +
                (entry.is_array ? "an array of " : "of type ") + kind_name(entry.kind) +
                "; expected " + expected);
}

[[noreturn]] void wrong_value(const Entry &entry, const std::string &value, const char *expected) {
    throw Error("metadata key " + quoted(entry.key) + " is " + value + "; expected " + expected);
}

bool is_integer(Kind kind) {
    return kind != Kind::F32 && kind != Kind::F64 && kind != Kind::Bool && kind != Kind::String;
}

int64_t integer(const Entry &entry, uint64_t index) {
    const std::byte *at = entry.values + index * kind_bytes(entry.kind);
    switch (entry.kind) {
        case Kind::U8: return read_as<uint8_t>(at);
        case Kind::I8: return read_as<int8_t>(at);
        case Kind::U16: return read_as<uint16_t>(at);
        case Kind::I16: return read_as<int16_t>(at);
        case Kind::U32: return read_as<uint32_t>(at);
        case Kind::I32: return read_as<int32_t>(at);
        case Kind::I64: return read_as<int64_t>(at);
        default: break;
    }
    const auto value = read_as<uint64_t>(at);
    if (value > INT64_MAX) wrong_value(entry, to_string(value), "less than 2^63");
    return static_cast<int64_t>(value);
}

std::string_view text_at(const std::byte *at) {
    return {reinterpret_cast<const char *>(at + sizeof(uint64_t)),
            static_cast<size_t>(read_as<uint64_t>(at))};
}

template <typename Range>
std::string shape_text(const Range &shape) {
    std::string result = "[";
    for (const uint64_t size : shape) {
        result += (result.size() > 1 ? ", " : "") + to_string(size);
    }
    return result + "]";
}

}  // namespace

template <> int64_t Gguf::read(const Entry &entry) {
    if (entry.is_array || !is_integer(entry.kind)) wrong_type(entry, "an integer");
    return integer(entry, 0);
}

template <> uint64_t Gguf::read(const Entry &entry) {
    const auto value = read<int64_t>(entry);
    if (value < 0) wrong_value(entry, to_string(value), "0 or more");
    return static_cast<uint64_t>(value);
}

template <> double Gguf::read(const Entry &entry) {
    const bool wide = entry.kind == Kind::F64;
    if (entry.is_array || (entry.kind != Kind::F32 && !wide)) wrong_type(entry, "a float");
    const double value = wide ? read_as<double>(entry.values) : read_as<float>(entry.values);
    if (!std::isfinite(value)) wrong_value(entry, to_string(value), "a finite number");
    return value;
}

template <> bool Gguf::read(const Entry &entry) {
    if (entry.is_array || entry.kind != Kind::Bool) wrong_type(entry, "a boolean");
    return read_as<uint8_t>(entry.values) != 0;
}

template <> std::string_view Gguf::read(const Entry &entry) {
    if (entry.is_array || entry.kind != Kind::String) wrong_type(entry, "a text");
    return text_at(entry.values);
}

Gguf::Gguf(const std::string &path) : Gguf(Mapping(path)) {}

Gguf::Gguf(Mapping file)
    : file_size_(file.bytes().size()),
      mapping_(is_gzip(file.bytes()) ? gunzip(file.bytes()) : std::move(file)),
      bytes_(mapping_->bytes()), parts_(parse_gguf(bytes_)), used_(parts_.tensors.size()) {}

Gguf::Gguf(std::span<const std::byte> bytes) : file_size_(bytes.size()), bytes_(bytes) {
    if (is_gzip(bytes)) bytes_ = mapping_.emplace(gunzip(bytes)).bytes();
    parts_ = parse_gguf(bytes_);
    used_.resize(parts_.tensors.size());
}

const Tensor *Gguf::find_tensor(std::string_view name) const {
    const Tensor *tensor = find_named(parts_.tensors, &Tensor::name, name);
    if (tensor != nullptr) used_[size_t(tensor - parts_.tensors.data())] = true;
    return tensor;
}

const Tensor &Gguf::tensor(std::string_view name, std::initializer_list<uint64_t> shape) const {
    const Tensor *tensor = find_tensor(name);
    if (tensor == nullptr) {
        throw Error("tensor " + quoted(name) + " is missing; expected in this kind of model");
    }
    uint64_t expected[4] = {1, 1, 1, 1};
    std::ranges::copy(shape, std::end(expected) - shape.size());
    if (!std::ranges::equal(tensor->shape, expected)) {
        size_t unused = 0;
        while (unused < 4 - shape.size() && tensor->shape[unused] == 1) unused++;
        throw Error("tensor " + quoted(name) + " has shape " +
                    shape_text(std::span(tensor->shape).subspan(unused)) +
                    "; expected " + shape_text(shape) + " by the metadata");
    }
    return *tensor;
}

const Tensor *Gguf::first_unused() const {
    const auto at = std::ranges::find(used_, false);
    return at == used_.end() ? nullptr : &parts_.tensors[size_t(at - used_.begin())];
}

void Gguf::release(const Tensor &tensor) const {
    if (mapping_) mapping_->release(tensor.data);
}

const Entry *Gguf::find_entry(std::string_view key) const {
    return find_named(parts_.entries, &Entry::key, key);
}

const Entry &Gguf::need_entry(std::string_view key) const {
    if (const Entry *entry = find_entry(key)) return *entry;
    throw Error("metadata key " + quoted(key) + " is missing; expected in this kind of model");
}

std::vector<std::string_view> Gguf::need_strings(std::string_view key) const {
    const Entry &entry = need_entry(key);
    if (!entry.is_array || entry.kind != Kind::String) wrong_type(entry, "an array of texts");
    std::vector<std::string_view> result;
    result.reserve(entry.count);
    const std::byte *at = entry.values;
    for (uint64_t i = 0; i < entry.count; i++) {
        result.push_back(text_at(at));
        at += sizeof(uint64_t) + result.back().size();
    }
    return result;
}

std::vector<int64_t> Gguf::need_ints(std::string_view key) const {
    const Entry &entry = need_entry(key);
    if (!is_integer(entry.kind)) wrong_type(entry, "an array of integers");
    std::vector<int64_t> result;
    result.reserve(entry.count);
    for (uint64_t i = 0; i < entry.count; i++) result.push_back(integer(entry, i));
    return result;
}

std::optional<double> number(const Entry &entry) {
    if (entry.is_array || entry.kind == Kind::String) return std::nullopt;
    if (entry.kind == Kind::Bool) return read_as<uint8_t>(entry.values);
    if (is_integer(entry.kind)) return double(integer(entry, 0));
    return Gguf::read<double>(entry);
}

}  // namespace itera
