#include "text/tokenizer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <unordered_map>

#include "gguf/keys.h"
#include "text/hash.h"
#include "text/pretokenizer.h"
#include "text/utf8.h"

namespace itera {
namespace {

constexpr int64_t kNormal = 1, kControl = 3;  // token types of llama.cpp

// The byte of each printable character of GPT-2's vocabulary: a byte stands for itself where it is
// printable in Latin-1, else a character from U+0100 on stands for it.
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
        while (!token.empty()) {
            const Character c = first_character(token);
            if (!c.is_valid || c.point >= bytes_.size() || bytes_[c.point] < 0) return false;
            out += static_cast<char>(bytes_[c.point]);
            token.remove_prefix(c.bytes);
        }
        return true;
    }

  private:
    std::array<int16_t, 0x144> bytes_;  // 256 characters, 68 of them moved
};

struct TextHash {
    uint64_t key = random_key();
    size_t operator()(std::string_view text) const {
        uint64_t hash = mix64(text.size() ^ key);
        for (; !text.empty(); text.remove_prefix(std::min<size_t>(8, text.size()))) {
            uint64_t chunk = 0;
            std::memcpy(&chunk, text.data(), std::min<size_t>(8, text.size()));
            hash = mix64(hash ^ chunk);
        }
        return hash;
    }
};

// The ids of tokens by their texts.
using TokenIndex = std::unordered_map<std::string_view, int32_t, TextHash>;

TokenIndex index_of(const std::vector<std::string_view> &tokens) {
    TokenIndex index(tokens.size());
    for (size_t id = 0; id < tokens.size(); ++id) {
        const auto [at, is_new] = index.emplace(tokens[id], static_cast<int32_t>(id));
        if (!is_new) {
            throw Error("tokens " + std::to_string(at->second) + " and " + std::to_string(id) +
                        " are both " + quoted(tokens[id]) + ": expected each token once");
        }
    }
    return index;
}

int32_t special(const Gguf &file, const std::string &name, size_t vocab_size) {
    const std::string key = "tokenizer.ggml." + name;
    const auto id = file.need<uint64_t>(key);
    if (id >= vocab_size) {
        throw Error(key + " is " + std::to_string(id) + ": expected 0 to " +
                    std::to_string(vocab_size - 1));
    }
    return static_cast<int32_t>(id);
}

}  // namespace

Tokenizer::Tokenizer(const Gguf &file) {
    check_whole_model(file);
    check_tokenizer_keys(file);
    const auto model = file.need<std::string_view>("tokenizer.ggml.model");
    const auto pre = file.need<std::string_view>("tokenizer.ggml.pre");
    if (model != "gpt2" || pre != "gpt-2") {
        throw Error("a tokenizer of model " + quoted(model) + " and pre-tokenizer " + quoted(pre) +
                    ": expected 'gpt2' and 'gpt-2' (byte-level BPE); export the model with itera");
    }
    const std::vector<std::string_view> tokens = file.need_strings("tokenizer.ggml.tokens");
    if (tokens.size() <= 256 || tokens.size() > INT32_MAX) {
        throw Error("a tokenizer of " + std::to_string(tokens.size()) +
                    " tokens: expected at least 257, the bytes and one that ends a document");
    }
    const std::vector<int64_t> types = file.need_ints("tokenizer.ggml.token_type");
    if (types.size() != tokens.size()) {
        throw Error("tokenizer.ggml.token_type has " + std::to_string(types.size()) +
                    " entries: expected one for each of the " + std::to_string(tokens.size()) +
                    " tokens");
    }
    read_special(file, types);
    read_tokens(tokens, types);
    read_merges(file.need_strings("tokenizer.ggml.merges"), tokens, types);
}

void Tokenizer::read_special(const Gguf &file, const std::vector<int64_t> &types) {
    eot_ = special(file, "eos_token_id", types.size());
    const bool has_bos = file.has("tokenizer.ggml.bos_token_id");
    const int32_t begins = has_bos ? special(file, "bos_token_id", types.size()) : -1;
    if (file.get<bool>("tokenizer.ggml.add_bos_token", false)) {
        if (!has_bos)
            throw Error("tokenizer.ggml.add_bos_token is true, but tokenizer.ggml.bos_token_id is "
                        "missing: expected the token that begins a document");
        bos_ = begins;
    }
    for (const std::string name : {"eot_token_id", "eom_token_id", "fim_pad_token_id",
                                   "fim_rep_token_id", "fim_sep_token_id"}) {
        if (file.has("tokenizer.ggml." + name) && special(file, name, types.size()) != eot_)
            throw Error("tokenizer.ggml." + name + " is another token than eos_token_id: expected "
                        "one token that ends a text");
    }
    for (size_t i = 0; i < types.size(); ++i) {
        const auto id = static_cast<int32_t>(i);
        if (id == eot_ ? types[i] == kControl
                       : types[i] == kNormal || (id == begins && types[i] == kControl))
            continue;
        throw Error("token " + std::to_string(i) + " has the type " + std::to_string(types[i]) +
                    ": expected " +
                    (id == eot_ ? "3 (control), because it ends a document"
                                : "1 (normal), as of all but those that begin or end a document"));
    }
}

void Tokenizer::read_tokens(const std::vector<std::string_view> &tokens,
                            const std::vector<int64_t> &types) {
    const ByteAlphabet alphabet;
    ends_.reserve(tokens.size());
    byte_ids_.fill(-1);
    for (size_t id = 0; id < tokens.size(); ++id) {
        const size_t begin = pool_.size();
        if (types[id] != kControl) {
            if (tokens[id].empty() || !alphabet.decode(tokens[id], pool_)) {
                throw Error("token " + std::to_string(id) + " is " + quoted(tokens[id]) +
                            ": expected characters of GPT-2's byte alphabet, at least one");
            }
            if (pool_.size() - begin == 1)
                byte_ids_[static_cast<unsigned char>(pool_[begin])] = static_cast<int32_t>(id);
        }
        ends_.push_back(pool_.size());
    }
    const auto missing = std::ranges::find(byte_ids_, -1);
    if (missing != byte_ids_.end()) {
        throw Error("no token for the byte " + std::to_string(missing - byte_ids_.begin()) +
                    ": expected one for each of the 256 bytes");
    }
}

void Tokenizer::read_merges(const std::vector<std::string_view> &texts,
                            const std::vector<std::string_view> &tokens,
                            const std::vector<int64_t> &types) {
    const TokenIndex index = index_of(tokens);
    merges_ = Merges(texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
        const auto fail = [&](const std::string &what) {
            throw Error("merge " + std::to_string(i) + " is " + quoted(texts[i]) + ": " + what);
        };
        if (std::ranges::count(texts[i], ' ') != 1)
            fail("expected two tokens with one space between them");
        const size_t space = texts[i].find(' ');
        const std::string left(texts[i].substr(0, space)), right(texts[i].substr(space + 1));
        const auto id_of = [&](const std::string &token) {
            const auto found = index.find(token);
            if (found == index.end() || types[static_cast<size_t>(found->second)] == kControl)
                fail("expected both parts and what they make to be tokens");
            return found->second;
        };
        if (!merges_.add(id_of(left), id_of(right), id_of(left + right)))
            fail("expected each merge once");
    }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
    std::vector<int32_t> ids, symbols;
    ids.reserve(text.size() / 3 + 16);  // about what English gives
    PreTokenizer pieces(text);
    for (std::string_view piece; !(piece = pieces.next()).empty();) {
        symbols.clear();
        for (const char c : piece) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
        merges_.apply(symbols, ids);
    }
    return ids;
}

std::string_view Tokenizer::bytes(int32_t id) const {
    const auto i = static_cast<size_t>(id);
    if (id < 0 || i >= ends_.size()) {
        throw UsageError("token " + std::to_string(id) + ": expected 0 to " +
                         std::to_string(ends_.size() - 1));
    }
    const size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(pool_).substr(begin, ends_[i] - begin);
}

std::string Tokenizer::decode(const std::vector<int32_t> &ids) const {
    std::string text;
    for (const int32_t id : ids) text += bytes(id);
    return text;
}

}  // namespace itera
