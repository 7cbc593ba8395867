// Bytes of tokens to pieces of text: whole characters, cut before the first stop text.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace itera {

class TextStream {
  public:
    explicit TextStream(std::vector<std::string> stops = {});

    // Takes the bytes of the next token; returns what may be shown now. A character that isn't
    // complete is held back, and so is text that may be the beginning of a stop text.
    std::string push(std::string_view bytes);
    // What is still held back at the end of the text.
    std::string finish();
    bool stopped() const { return stopped_; }  // a stop text was found; nothing comes after it

  private:
    std::vector<std::string> stops_;
    size_t longest_ = 0;
    std::string held_;
    bool stopped_ = false;
};

}  // namespace itera
