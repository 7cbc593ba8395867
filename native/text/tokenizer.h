// Byte-level BPE with GPT-2's pre-tokenizer, from a GGUF file; same ids as the Python tokenizer.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf.h"
#include "text/merges.h"

namespace itera {

class Tokenizer {
  public:
    // Reads the keys under `tokenizer.`. Throws `Error` for another kind of tokenizer, a key that
    // it doesn't know, duplicate or undecodable tokens, a missing byte, bad merges.
    explicit Tokenizer(const Gguf &file);

    int32_t size() const { return static_cast<int32_t>(ends_.size()); }
    int32_t eot() const { return eot_; }  // <|endoftext|>: ends every document, never encoded
    int32_t bos() const { return bos_; }  // begins every document; -1 where nothing does
    // Any bytes may be given; bytes that aren't UTF-8 become their byte tokens.
    std::vector<int32_t> encode(std::string_view text) const;
    // Of a token; empty for a control token. Throws `UsageError` for no id of the vocabulary.
    std::string_view bytes(int32_t id) const;
    std::string decode(const std::vector<int32_t> &ids) const;  // the exact bytes

  private:
    void read_special(const Gguf &file, const std::vector<int64_t> &types);
    void read_tokens(const std::vector<std::string_view> &tokens,
                     const std::vector<int64_t> &types);
    void read_merges(const std::vector<std::string_view> &texts,
                     const std::vector<std::string_view> &tokens,
                     const std::vector<int64_t> &types);

    std::string pool_;          // the bytes of all tokens
    std::vector<size_t> ends_;  // where those of each end in it
    std::array<int32_t, 256> byte_ids_;
    int32_t eot_ = 0, bos_ = -1;
    Merges merges_;
};

}  // namespace itera
