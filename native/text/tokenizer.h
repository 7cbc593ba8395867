// Byte-level BPE with GPT-2's pre-tokenizer, from a GGUF file; identical to the Python tokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/gguf.h"

namespace itera {

class Tokenizer {
  public:
    // Reads the keys under `tokenizer.`. Throws `Error` for another kind of tokenizer, a key that
    // it doesn't know, duplicate or undecodable tokens, a missing byte, bad merges.
    explicit Tokenizer(const Gguf &file);
    Tokenizer(Tokenizer &&) noexcept;
    ~Tokenizer();

    int32_t size() const;
    int32_t eot() const;  // <|endoftext|>: ends every document, never produced by `encode`
    int32_t bos() const;  // begins every document; -1 where the file says that nothing does
    // Any bytes may be given; bytes that aren't UTF-8 become their byte tokens.
    std::vector<int32_t> encode(std::string_view text) const;
    std::string_view bytes(int32_t id) const;  // empty for a control token
    std::string decode(const std::vector<int32_t> &ids) const;  // the exact bytes

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace itera
