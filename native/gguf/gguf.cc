#include "gguf/gguf.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "gguf/gguf_parse.h"
#include "gguf/mapped_file.h"

namespace itera {
namespace {

using std::to_string;

bool is_integer(Kind kind) {
    return kind != Kind::F32 && kind != Kind::F64 && kind != Kind::Bool && kind != Kind::String;
}

[[noreturn]] void wrong_type(const Entry &entry, const char *expected) {
    throw Error("metadata key " + quoted(entry.key) + " is " +
                (entry.is_array ? "an array of " : "of type ") + kind_name(entry.kind) +
                "; expected " + expected);
}

int64_t integer(const Entry &entry, uint64_t index) {
    const std::byte *at = entry.values + index * kind_bytes(entry.kind);
    switch (entry.kind) {
        case Kind::U8: return load<uint8_t>(at);
        case Kind::I8: return load<int8_t>(at);
        case Kind::U16: return load<uint16_t>(at);
        case Kind::I16: return load<int16_t>(at);
        case Kind::U32: return load<uint32_t>(at);
        case Kind::I32: return load<int32_t>(at);
        case Kind::I64: return load<int64_t>(at);
        default: break;
    }
    const auto value = load<uint64_t>(at);
    if (value > INT64_MAX) {
        throw Error("metadata key " + quoted(entry.key) + " is " + to_string(value) +
                    "; expected less than 2^63");
    }
    return static_cast<int64_t>(value);
}

uint64_t as_uint(const Entry &entry) {
    if (entry.is_array || !is_integer(entry.kind)) wrong_type(entry, "an integer");
    const int64_t value = integer(entry, 0);
    if (value < 0) {
        throw Error("metadata key " + quoted(entry.key) + " is " + to_string(value) +
                    "; expected 0 or more");
    }
    return static_cast<uint64_t>(value);
}

double as_float(const Entry &entry) {
    const bool wide = entry.kind == Kind::F64;
    if (entry.is_array || (entry.kind != Kind::F32 && !wide)) wrong_type(entry, "a float");
    const double value = wide ? load<double>(entry.values) : load<float>(entry.values);
    if (!std::isfinite(value)) {
        throw Error("metadata key " + quoted(entry.key) + " is " + to_string(value) +
                    "; expected a finite number");
    }
    return value;
}

std::string_view text_at(const std::byte *at) {
    return {reinterpret_cast<const char *>(at + sizeof(uint64_t)), load<uint64_t>(at)};
}

std::string_view as_string(const Entry &entry) {
    if (entry.is_array || entry.kind != Kind::String) wrong_type(entry, "a text");
    return text_at(entry.values);
}

template <typename Range>
std::string shape_text(const Range &shape) {
    std::string result = "[";
    for (const uint64_t size : shape) {
        result += (result.size() > 1 ? ", " : "") + to_string(size);
    }
    return result + "]";
}

template <typename T>
const T *look_up(const std::vector<T> &sorted, std::string_view T::*name, std::string_view wanted) {
    const auto found = std::ranges::lower_bound(sorted, wanted, {}, name);
    return found != sorted.end() && (*found).*name == wanted ? &*found : nullptr;
}

}  // namespace

struct Gguf::Impl {
    std::optional<MappedFile> file;  // none over the caller's memory
    std::span<const std::byte> bytes;
    Parts parts;
    std::vector<bool> used = {};  // of each tensor

    const Entry *find(std::string_view key) const {
        return look_up(parts.entries, &Entry::key, key);
    }
    const Entry &need(std::string_view key) const {
        if (const Entry *entry = find(key)) return *entry;
        throw Error("metadata key " + quoted(key) + " is missing; expected in this kind of model");
    }
};

Gguf Gguf::open(const std::string &path) {
    auto impl = std::make_unique<Impl>();
    impl->file.emplace(path);
    impl->bytes = impl->file->bytes();
    impl->parts = parse_gguf(impl->bytes);
    impl->used.resize(impl->parts.tensors.size());
    return Gguf(std::move(impl));
}

Gguf Gguf::from_memory(std::span<const std::byte> bytes) {
    if (reinterpret_cast<uintptr_t>(bytes.data()) % 8 != 0) {
        throw Error("the bytes of a GGUF file begin at an address that 8 doesn't divide");
    }
    auto impl = std::make_unique<Impl>();
    impl->bytes = bytes;
    impl->parts = parse_gguf(bytes);
    impl->used.resize(impl->parts.tensors.size());
    return Gguf(std::move(impl));
}

Gguf::Gguf(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Gguf::Gguf(Gguf &&) noexcept = default;
Gguf &Gguf::operator=(Gguf &&) noexcept = default;
Gguf::~Gguf() = default;

uint64_t Gguf::file_size() const { return impl_->bytes.size(); }
const std::vector<Tensor> &Gguf::tensors() const { return impl_->parts.tensors; }

const Tensor *Gguf::find(std::string_view name) const {
    const Tensor *tensor = look_up(impl_->parts.tensors, &Tensor::name, name);
    if (tensor) impl_->used[size_t(tensor - impl_->parts.tensors.data())] = true;
    return tensor;
}

const Tensor *Gguf::first_unused() const {
    const auto at = std::ranges::find(impl_->used, false);
    if (at == impl_->used.end()) return nullptr;
    return &impl_->parts.tensors[size_t(at - impl_->used.begin())];
}

const Tensor &Gguf::need(std::string_view name, std::initializer_list<uint64_t> shape) const {
    const Tensor *tensor = find(name);
    if (tensor == nullptr) {
        throw Error("tensor " + quoted(name) + " is missing; expected in this kind of model");
    }
    uint64_t expected[4] = {1, 1, 1, 1};
    std::ranges::copy(shape, std::end(expected) - shape.size());
    if (!std::ranges::equal(tensor->shape, expected)) {
        const size_t unused = std::min<size_t>(
            4 - shape.size(),
            static_cast<size_t>(std::ranges::find_if(tensor->shape, [](uint64_t n) {
                                    return n != 1;
                                }) - tensor->shape));
        throw Error("tensor " + quoted(name) + " has shape " +
                    shape_text(std::span(tensor->shape).subspan(unused)) +
                    "; expected " + shape_text(shape) + " by the metadata");
    }
    return *tensor;
}

uint64_t Gguf::need_uint(std::string_view key) const { return as_uint(impl_->need(key)); }

uint64_t Gguf::uint_or(std::string_view key, uint64_t otherwise) const {
    const Entry *entry = impl_->find(key);
    return entry != nullptr ? as_uint(*entry) : otherwise;
}

int64_t Gguf::int_or(std::string_view key, int64_t otherwise) const {
    const Entry *entry = impl_->find(key);
    if (entry == nullptr) return otherwise;
    if (entry->is_array || !is_integer(entry->kind)) wrong_type(*entry, "an integer");
    return integer(*entry, 0);
}

bool Gguf::has(std::string_view key) const { return impl_->find(key) != nullptr; }

std::vector<std::string_view> Gguf::keys() const {
    std::vector<std::string_view> names;
    names.reserve(impl_->parts.entries.size());
    for (const Entry &entry : impl_->parts.entries) names.push_back(entry.key);
    return names;
}

std::optional<double> Gguf::number(std::string_view key) const {
    const Entry *entry = impl_->find(key);
    if (entry == nullptr || entry->is_array || entry->kind == Kind::String) return std::nullopt;
    if (entry->kind == Kind::Bool) return load<uint8_t>(entry->values);
    return is_integer(entry->kind) ? double(integer(*entry, 0)) : as_float(*entry);
}

double Gguf::need_float(std::string_view key) const { return as_float(impl_->need(key)); }

double Gguf::float_or(std::string_view key, double otherwise) const {
    const Entry *entry = impl_->find(key);
    return entry != nullptr ? as_float(*entry) : otherwise;
}

bool Gguf::bool_or(std::string_view key, bool otherwise) const {
    const Entry *entry = impl_->find(key);
    if (entry == nullptr) return otherwise;
    if (entry->is_array || entry->kind != Kind::Bool) wrong_type(*entry, "a boolean");
    return load<uint8_t>(entry->values) != 0;
}

std::string_view Gguf::need_string(std::string_view key) const {
    return as_string(impl_->need(key));
}

std::string_view Gguf::string_or(std::string_view key, std::string_view otherwise) const {
    const Entry *entry = impl_->find(key);
    return entry != nullptr ? as_string(*entry) : otherwise;
}

std::vector<std::string_view> Gguf::need_strings(std::string_view key) const {
    const Entry &entry = impl_->need(key);
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
    const Entry &entry = impl_->need(key);
    if (!is_integer(entry.kind)) wrong_type(entry, "an array of integers");
    std::vector<int64_t> result;
    result.reserve(entry.count);
    for (uint64_t i = 0; i < entry.count; i++) result.push_back(integer(entry, i));
    return result;
}

void Gguf::release(const Tensor &tensor) const {
    if (impl_->file) impl_->file->release(tensor.data);
}

}  // namespace itera
