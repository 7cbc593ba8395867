#include "gguf/parse.h"

#include <iterator>
#include <string>

#include "gguf/error.h"

namespace itera {
namespace {

using std::to_string;

// A kind of metadata value, and the bytes of one; 0: the size depends on the value.
struct KindInfo {
    const char *name;
    uint8_t bytes;
};
constexpr KindInfo kKinds[] = {
    {"uint8", 1},   {"int8", 1},    {"uint16", 2}, {"int16", 2}, {"uint32", 4},
    {"int32", 4},   {"float32", 4}, {"boolean", 1}, {"text", 0}, {"array", 0},
    {"uint64", 8},  {"int64", 8},   {"float64", 8},
};

// The fewest bytes that one of each takes: they bound a count before anything is allocated.
constexpr uint64_t smallest_entry = 8 + 1 + 4 + 1;            // key, kind, value
constexpr uint64_t smallest_tensor = 8 + 1 + 4 + 8 + 4 + 8;  // name, n_dims, dim, type, offset

constexpr uint64_t longest_key = 65535;  // the format's limit
constexpr uint64_t longest_name = 64;
constexpr uint64_t largest_alignment = uint64_t{1} << 20;

constexpr const char *damaged = "; the file is cut short or damaged";

// Reads forward through the bytes and never past their end.
class Cursor {
  public:
    explicit Cursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

    uint64_t position() const { return at_; }
    uint64_t left() const { return bytes_.size() - at_; }
    const std::byte *here() const { return bytes_.data() + at_; }

    void skip(uint64_t count, const char *what) {
        if (count > left()) {
            throw Error(std::string("byte ") + to_string(at_) + ": " + what + " takes " +
                        to_string(count) + " bytes, but only " + to_string(left()) + " follow" +
                        damaged);
        }
        at_ += count;
    }

    template <typename T>
    T take(const char *what) {
        const std::byte *from = here();
        skip(sizeof(T), what);
        return read_as<T>(from);
    }

    std::string_view text(const char *what) {
        const auto length = take<uint64_t>(what);
        const char *start = reinterpret_cast<const char *>(here());
        skip(length, what);
        return {start, static_cast<size_t>(length)};
    }

    // A count of things that take at least `smallest` bytes each.
    uint64_t count(uint64_t smallest, const char *what) {
        const auto value = take<uint64_t>(what);
        if (value > left() / smallest) {
            throw Error(std::string(what) + " is " + to_string(value) + ", but only " +
                        to_string(left()) + " bytes follow" + damaged);
        }
        return value;
    }

  private:
    std::span<const std::byte> bytes_;
    uint64_t at_ = 0;
};

void read_version(Cursor &cursor) {
    if (cursor.left() == 0) throw Error(std::string("is empty") + kExpected);
    if (cursor.left() < 4 || std::memcmp(cursor.here(), "GGUF", 4) != 0) {
        // A safetensors file begins with the length of its JSON header, an object.
        const bool safetensors = cursor.left() > 9 && cursor.here()[8] == std::byte{'{'} &&
                                 read_as<uint64_t>(cursor.here()) < cursor.left();
        throw Error((safetensors ? "is a safetensors file" : "doesn't begin with 'GGUF'") +
                    std::string(kExpected));
    }
    cursor.skip(4, "the magic");
    const auto version = cursor.take<uint32_t>("the format's version");
    if (version != 0 && (version & 0xffff) == 0) {
        throw Error("is a big-endian GGUF file; expected a little-endian one: convert it");
    }
    if (version != 2 && version != 3) {
        throw Error("has GGUF version " + to_string(version) +
                    "; expected 2 or 3: export it again with a current tool");
    }
}

Kind read_kind(Cursor &cursor, std::string_view key) {
    const auto number = cursor.take<uint32_t>("a metadata type");
    if (number >= std::size(kKinds)) {
        throw Error("metadata key " + quoted(key) + " has type " + to_string(number) +
                    "; expected 0 to " + to_string(std::size(kKinds) - 1));
    }
    return static_cast<Kind>(number);
}

Entry read_entry(Cursor &cursor) {
    const std::string_view key = cursor.text("a metadata key");
    if (key.empty() || key.size() > longest_key) {
        throw Error("byte " + to_string(cursor.position()) + ": a metadata key has " +
                    to_string(key.size()) + " bytes; expected 1 to " + to_string(longest_key));
    }
    Entry entry{key, read_kind(cursor, key), false, 1, nullptr};
    if (entry.kind == Kind::Array) {
        entry.is_array = true;
        entry.kind = read_kind(cursor, key);
        if (entry.kind == Kind::Array) {
            throw Error("metadata key " + quoted(key) + " is an array of arrays; expected none");
        }
        const size_t smallest = entry.kind == Kind::String ? 8 : kind_bytes(entry.kind);
        entry.count = cursor.count(smallest, "the length of a metadata array");
    }
    entry.values = cursor.here();
    if (entry.kind == Kind::String) {
        for (uint64_t i = 0; i < entry.count; i++) cursor.text("a metadata text");
        return entry;
    }
    // An array's length was bounded by the bytes left, so the product can't overflow.
    cursor.skip(entry.count * kind_bytes(entry.kind), "a metadata value");
    if (entry.kind == Kind::Bool) {
        const auto wrong = [](std::byte value) { return value > std::byte{1}; };
        if (std::any_of(entry.values, entry.values + entry.count, wrong)) {
            throw Error("metadata key " + quoted(key) + " has a boolean that isn't 0 or 1");
        }
    }
    return entry;
}

// A tensor as the file describes it, before its data is found.
struct Description {
    Tensor tensor;
    uint64_t offset;
    uint64_t bytes;
};

Description read_description(Cursor &cursor) {
    const std::string_view name = cursor.text("a tensor's name");
    const std::string who = "tensor " + quoted(name);
    if (name.empty() || name.size() > longest_name) {
        throw Error(who + " has a name of " + to_string(name.size()) + " bytes; expected 1 to " +
                    to_string(longest_name));
    }
    const auto n_dims = cursor.take<uint32_t>("a tensor's number of dimensions");
    if (n_dims < 1 || n_dims > 4) {
        throw Error(who + " has " + to_string(n_dims) + " dimensions; expected 1 to 4");
    }
    Description result{{name, TensorType::F32, {1, 1, 1, 1}, {}}, 0, 0};
    for (uint32_t i = 0; i < n_dims; i++) {  // the file has the innermost first
        result.tensor.shape[3 - i] = cursor.take<uint64_t>("a tensor's dimension");
    }
    result.tensor.type = static_cast<TensorType>(cursor.take<uint32_t>("a tensor's type"));
    result.offset = cursor.take<uint64_t>("a tensor's offset");

    const TypeInfo type = info(result.tensor.type);
    if (type.values == 0) {
        throw Error(who + " has type " + to_string(static_cast<uint32_t>(result.tensor.type)) +
                    " (" + type.name +
                    "); expected F32, F16, BF16, Q8_0 or Q4_0: export it again in one of these");
    }
    if (result.tensor.columns() % type.values != 0) {
        throw Error(who + " has rows of " + to_string(result.tensor.columns()) +
                    " values; expected a multiple of " + to_string(type.values) + " for " +
                    type.name);
    }
    result.bytes = type.bytes;
    uint64_t factors[4];
    std::copy_n(result.tensor.shape, 4, factors);
    factors[3] /= type.values;
    for (const uint64_t factor : factors) {
        if (factor == 0) throw Error(who + " has a dimension of 0; expected at least 1");
        if (__builtin_mul_overflow(result.bytes, factor, &result.bytes)) {
            throw Error(who + " has more bytes than 64 bits can count" + damaged);
        }
    }
    return result;
}

uint64_t read_alignment(const std::vector<Entry> &entries) {
    constexpr std::string_view key = "general.alignment";
    const Entry *entry = find_named(entries, &Entry::key, key);
    if (entry == nullptr) return 32;  // the format's default
    if (entry->kind != Kind::U32 || entry->is_array) {
        throw Error("metadata key " + quoted(key) + " is not a single uint32");
    }
    const auto alignment = read_as<uint32_t>(entry->values);
    if (!std::has_single_bit(alignment) || alignment < 8 || alignment > largest_alignment) {
        throw Error("metadata key " + quoted(key) + " is " + to_string(alignment) +
                    "; expected a power of two from 8 to " + to_string(largest_alignment));
    }
    return alignment;
}

void place(Description &description, std::span<const std::byte> data, uint64_t alignment) {
    const std::string who = "tensor " + quoted(description.tensor.name);
    if (description.offset % alignment != 0) {
        throw Error(who + " begins at offset " + to_string(description.offset) +
                    "; expected a multiple of general.alignment, " + to_string(alignment));
    }
    if (description.offset > data.size() || description.bytes > data.size() - description.offset) {
        throw Error(who + " has " + to_string(description.bytes) + " bytes at offset " +
                    to_string(description.offset) + ", but the file has only " +
                    to_string(data.size()) + " bytes of tensor data" + damaged);
    }
    description.tensor.data = data.subspan(description.offset, description.bytes);
}

void refuse_overlaps(std::vector<Description> &descriptions) {
    std::ranges::sort(descriptions, {}, &Description::offset);
    for (size_t i = 1; i < descriptions.size(); i++) {
        const Description &before = descriptions[i - 1];
        if (descriptions[i].offset - before.offset < before.bytes) {
            throw Error("tensors " + quoted(before.tensor.name) + " and " +
                        quoted(descriptions[i].tensor.name) + " overlap in the file");
        }
    }
}

template <typename T>
void sort_distinct(std::vector<T> &things, std::string_view T::*name, const char *what) {
    std::ranges::sort(things, {}, name);
    const auto twice = std::ranges::adjacent_find(things, {}, name);
    if (twice != things.end()) {
        throw Error(std::string(what) + " " + quoted((*twice).*name) + " appears twice");
    }
}

}  // namespace

const char *kind_name(Kind kind) { return kKinds[static_cast<size_t>(kind)].name; }
size_t kind_bytes(Kind kind) { return kKinds[static_cast<size_t>(kind)].bytes; }

Parts parse_gguf(std::span<const std::byte> bytes) {
    Parts parts;
    Cursor cursor(bytes);
    read_version(cursor);
    const uint64_t n_tensors = cursor.count(smallest_tensor, "the number of tensors");
    const uint64_t n_entries = cursor.count(smallest_entry, "the number of metadata keys");

    parts.entries.reserve(n_entries);
    for (uint64_t i = 0; i < n_entries; i++) parts.entries.push_back(read_entry(cursor));
    sort_distinct(parts.entries, &Entry::key, "metadata key");
    const uint64_t alignment = read_alignment(parts.entries);

    std::vector<Description> descriptions;
    descriptions.reserve(n_tensors);
    for (uint64_t i = 0; i < n_tensors; i++) descriptions.push_back(read_description(cursor));

    const uint64_t gap = (alignment - cursor.position() % alignment) % alignment;
    const auto data = bytes.subspan(cursor.position() + std::min(gap, cursor.left()));
    for (Description &description : descriptions) place(description, data, alignment);
    refuse_overlaps(descriptions);

    parts.tensors.reserve(n_tensors);
    for (const Description &description : descriptions) {
        parts.tensors.push_back(description.tensor);
    }
    sort_distinct(parts.tensors, &Tensor::name, "tensor");
    return parts;
}

}  // namespace itera
