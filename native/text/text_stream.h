// Bytes of tokens to pieces of text: whole characters, cut before the first stop text.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace itera {

class TextStream {
  public:
    explicit TextStream(std::vector<std::string> stops) : stops_(std::move(stops)) {}

    // Takes the bytes of the next token; returns the text that is ready. An incomplete character
    // is held back, and so is text that may begin a stop text.
    std::string push(std::string_view bytes);
    // Returns what is held back, at the end of the text.
    std::string finish() { return std::exchange(held_, {}); }
    bool stopped() const { return stopped_; }  // a stop text was found; nothing comes after it

  private:
    std::vector<std::string> stops_;
    std::string held_;
    bool stopped_ = false;
};

}  // namespace itera
