// Several texts that are written together, and share each pass over the weights.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "run/generate.h"

namespace itera {

inline constexpr uint32_t kMostRows = 1024;

class Batch {
  public:
    // Throws `UsageError` where `max_rows`, the tokens of a pass, isn't 1 to kMostRows.
    Batch(const Model &model, uint32_t max_rows);

    // Advances every stream that isn't done by one token; pieces[i] gets the ready text of stream
    // i. Prompts of several tokens are read in parts, of max_rows tokens in all at most: equal
    // parts, in what the other streams leave of the last pass, but at least a quarter of one. A
    // stream gets its first token in the step that reads the last of its prompt. A stream that
    // can't go on is done with an `error`; the others aren't touched by it. An exception is of the
    // whole step, such as too little memory.
    void step(std::span<Stream *const> streams, std::vector<std::string> &pieces);
    const Model &model() const { return model_; }

  private:
    struct Part {
        uint32_t stream, tokens;  // that it reads in this step
    };
    void share(std::span<Stream *const> streams, size_t tokens);
    void choose(std::span<Stream *const> streams, std::vector<std::string> &pieces);

    const Model &model_;
    Session session_;
    // Kept from step to step, so that a token takes no memory.
    std::vector<Part> parts_;    // of this step: first the streams that read one token
    std::vector<Part> waiting_;  // prompts of several tokens
    std::vector<Row> rows_;      // of a pass
    std::vector<Part> read_;     // parts of it, with how much of each it reads
};

}  // namespace itera
