#include "text/tokenizer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>

#include "gguf/keys.h"
#include "text/merges.h"
#include "text/pretokenizer.h"

namespace itera {
namespace {

constexpr int64_t kNormal = 1, kControl = 3;  // token types of llama.cpp

// GPT-2's printable character for each byte: itself where it is printable in Latin-1, else one
// from U+0100 on. Here the other way round: the byte of each character.
class ByteAlphabet {
  public:
    ByteAlphabet() {
        int spare = 0x100;
        bytes_.fill(-1);
        for (int byte = 0; byte < 256; ++byte) {
            const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
            bytes_[static_cast<size_t>(printable ? byte : spare++)] = static_cast<int16_t>(byte);
        }
    }

    // Appends the bytes of a token. False where it holds a character of another kind.
    bool decode(std::string_view token, std::string &out) const {
        for (size_t i = 0; i < token.size();) {
            size_t point = static_cast<unsigned char>(token[i++]);
            if (point >= 0x80) {  // all of the alphabet takes at most two bytes of UTF-8
                if (point < 0xC2 || point >= 0xE0 || i == token.size()) return false;
                const auto second = static_cast<unsigned char>(token[i++]);
                if ((second & 0xC0) != 0x80) return false;
                point = (point & 0x1F) << 6 | (second & 0x3F);
            }
            if (point >= bytes_.size() || bytes_[point] < 0) return false;
            out += static_cast<char>(bytes_[point]);
        }
        return true;
    }

  private:
    std::array<int16_t, 0x144> bytes_;  // 256 characters, 68 of them moved
};

// Token text to id, needed only while the file is read.
class TokenIndex {
  public:
    explicit TokenIndex(const std::vector<std::string_view> &tokens)
        : tokens_(tokens), slots_(std::bit_ceil(2 * tokens.size() + 1), -1) {
        for (size_t id = 0; id < tokens.size(); ++id) {
            int32_t &slot = slots_[place(tokens[id])];
            if (slot >= 0) {
                throw Error("tokens " + std::to_string(slot) + " and " + std::to_string(id) +
                            " are both " + quoted(tokens[id]) + ": expected each token once");
            }
            slot = static_cast<int32_t>(id);
        }
    }

    int32_t find(std::string_view token) const { return slots_[place(token)]; }  // -1: none

  private:
    size_t place(std::string_view token) const {
        uint64_t hash = mix(token.size(), key_);
        for (size_t at = 0; at < token.size(); at += 8) {
            uint64_t chunk = 0;
            std::memcpy(&chunk, token.data() + at, std::min<size_t>(8, token.size() - at));
            hash = mix(hash ^ chunk, key_);
        }
        size_t i = hash & (slots_.size() - 1);
        while (slots_[i] >= 0 && tokens_[static_cast<size_t>(slots_[i])] != token) {
            i = (i + 1) & (slots_.size() - 1);
        }
        return i;
    }

    const std::vector<std::string_view> &tokens_;
    std::vector<int32_t> slots_;
    uint64_t key_ = hash_key();
};

}  // namespace

struct Tokenizer::Impl {
    std::string pool;               // the bytes of all tokens
    std::vector<size_t> ends;       // where those of each end in it
    std::array<int32_t, 256> byte_ids;
    int32_t eot, bos = -1;
    std::vector<int64_t> types;  // of the tokens, while the file is read
    std::optional<Merges> merges;

    std::string_view bytes(int32_t id) const {
        const auto i = static_cast<size_t>(id);
        if (id < 0 || i >= ends.size()) {
            throw UsageError("token " + std::to_string(id) + ": expected 0 to " +
                             std::to_string(ends.size() - 1));
        }
        const size_t begin = i == 0 ? 0 : ends[i - 1];
        return std::string_view(pool).substr(begin, ends[i] - begin);
    }

    int32_t special(const Gguf &file, const std::string &name) const;
    bool is_control(int32_t id) const { return types[static_cast<size_t>(id)] == kControl; }
    void read_special(const Gguf &file, size_t size);
    void read_tokens(const std::vector<std::string_view> &tokens);
    void read_merges(const Gguf &file, const std::vector<std::string_view> &tokens);
};

int32_t Tokenizer::Impl::special(const Gguf &file, const std::string &name) const {
    const std::string key = "tokenizer.ggml." + name;
    const uint64_t id = file.need_uint(key);
    if (id >= types.size()) {
        throw Error(key + " is " + std::to_string(id) + ": expected 0 to " +
                    std::to_string(types.size() - 1));
    }
    return static_cast<int32_t>(id);
}

void Tokenizer::Impl::read_special(const Gguf &file, size_t size) {
    types = file.need_ints("tokenizer.ggml.token_type");
    if (types.size() != size) {
        throw Error("tokenizer.ggml.token_type has " + std::to_string(types.size()) +
                    " entries: expected one for each of the " + std::to_string(size) + " tokens");
    }
    eot = special(file, "eos_token_id");
    const bool has_bos = file.has("tokenizer.ggml.bos_token_id");
    const int32_t begins = has_bos ? special(file, "bos_token_id") : -1;
    if (file.bool_or("tokenizer.ggml.add_bos_token", false)) {
        if (!has_bos)
            throw Error("tokenizer.ggml.add_bos_token is true, but tokenizer.ggml.bos_token_id is "
                        "missing: expected the token that begins a document");
        bos = begins;
    }
    for (const char *name : {"eot_token_id", "eom_token_id", "fim_pad_token_id",
                             "fim_rep_token_id", "fim_sep_token_id"}) {
        if (file.has(std::string("tokenizer.ggml.") + name) && special(file, name) != eot)
            throw Error(std::string("tokenizer.ggml.") + name + " is another token than "
                        "eos_token_id: expected one token that ends a text");
    }
    for (size_t i = 0; i < size; ++i) {
        const auto id = static_cast<int32_t>(i);
        if (id == eot ? types[i] == kControl
                      : types[i] == kNormal || (id == begins && types[i] == kControl))
            continue;
        throw Error("token " + std::to_string(i) + " has the type " + std::to_string(types[i]) +
                    ": expected " +
                    (id == eot ? "3 (control), because it ends a document"
                               : "1 (normal), as of all but those that begin or end a document"));
    }
}

void Tokenizer::Impl::read_tokens(const std::vector<std::string_view> &tokens) {
    const ByteAlphabet alphabet;
    ends.reserve(tokens.size());
    byte_ids.fill(-1);
    for (const std::string_view token : tokens) {
        const auto id = static_cast<int32_t>(ends.size());
        const size_t begin = pool.size();
        if (!is_control(id)) {
            if (token.empty() || !alphabet.decode(token, pool)) {
                throw Error("token " + std::to_string(id) + " is " + quoted(token) +
                            ": expected characters of GPT-2's byte alphabet, at least one");
            }
            if (pool.size() - begin == 1) byte_ids[static_cast<unsigned char>(pool[begin])] = id;
        }
        ends.push_back(pool.size());
    }
    const auto missing = std::find(byte_ids.begin(), byte_ids.end(), -1);
    if (missing != byte_ids.end()) {
        throw Error("no token for the byte " + std::to_string(missing - byte_ids.begin()) +
                    ": expected one for each of the 256 bytes");
    }
}

void Tokenizer::Impl::read_merges(const Gguf &file, const std::vector<std::string_view> &tokens) {
    const std::vector<std::string_view> texts = file.need_strings("tokenizer.ggml.merges");
    const TokenIndex index(tokens);
    merges.emplace(texts.size());
    std::string joined;
    for (size_t i = 0; i < texts.size(); ++i) {
        const auto fail = [&](const std::string &what) {
            throw Error("merge " + std::to_string(i) + " is " + quoted(texts[i]) + ": " + what);
        };
        const size_t space = texts[i].find(' ');
        if (std::count(texts[i].begin(), texts[i].end(), ' ') != 1) {
            fail("expected two tokens with one space between them");
        }
        const std::string_view left = texts[i].substr(0, space), right = texts[i].substr(space + 1);
        joined.assign(left).append(right);
        const int32_t ids[] = {index.find(left), index.find(right), index.find(joined)};
        for (const int32_t id : ids) {
            if (id < 0 || is_control(id))
                fail("expected both parts and what they make to be tokens");
        }
        if (!merges->add(ids[0], ids[1], ids[2])) fail("expected each merge once");
    }
}

Tokenizer::Tokenizer(const Gguf &file) : impl_(std::make_unique<Impl>()) {
    check_whole_model(file);
    check_tokenizer_keys(file);
    const std::string_view model = file.need_string("tokenizer.ggml.model");
    const std::string_view pre = file.need_string("tokenizer.ggml.pre");
    if (model != "gpt2" || pre != "gpt-2") {
        throw Error("a tokenizer of model " + quoted(model) + " and pre-tokenizer " + quoted(pre) +
                    ": expected 'gpt2' and 'gpt-2' (byte-level BPE); export the model with itera");
    }
    const std::vector<std::string_view> tokens = file.need_strings("tokenizer.ggml.tokens");
    if (tokens.size() <= 256 || tokens.size() > INT32_MAX) {
        throw Error("a tokenizer of " + std::to_string(tokens.size()) +
                    " tokens: expected at least 257, the bytes and one that ends a document");
    }
    impl_->read_special(file, tokens.size());
    impl_->read_tokens(tokens);
    impl_->read_merges(file, tokens);
    impl_->types = {};
}

Tokenizer::Tokenizer(Tokenizer &&) noexcept = default;
Tokenizer::~Tokenizer() = default;

int32_t Tokenizer::size() const { return static_cast<int32_t>(impl_->ends.size()); }
int32_t Tokenizer::eot() const { return impl_->eot; }
int32_t Tokenizer::bos() const { return impl_->bos; }
std::string_view Tokenizer::bytes(int32_t id) const { return impl_->bytes(id); }

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
    std::vector<int32_t> ids, symbols;
    ids.reserve(text.size() / 3 + 16);  // about what English gives
    PreTokenizer pieces(text);
    for (std::string_view piece; !(piece = pieces.next()).empty();) {
        symbols.clear();
        for (const char c : piece) {
            symbols.push_back(impl_->byte_ids[static_cast<unsigned char>(c)]);
        }
        impl_->merges->apply(symbols, ids);
    }
    return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t> &ids) const {
    std::string text;
    for (const int32_t id : ids) text += impl_->bytes(id);
    return text;
}

}  // namespace itera
