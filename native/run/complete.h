// The likeliest words, or lines, that go on from a text while it is typed.
//
// A word is a run of ASCII letters, digits, underscores and bytes above 127. Where the text ends in
// one, it is completed; else the next word is found, after spaces. A line ends before "\n".
//
// Tokens don't end where typing does. Those of the last word with the spaces before it, and at
// least those of the pre-tokenizer's last piece, are taken back; then every token counts whose
// bytes agree with those that were typed, also one that goes beyond them. From there a beam search
// follows the likeliest tokens until the next one ends the word. The probability of a word is the
// sum over the paths of tokens that the search found to write it, divided by that of what was
// typed.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/session.h"
#include "model/state.h"

namespace itera {

struct Completion {
    std::string text;  // what follows the prefix
    double probability;
};

// How far the search goes.
struct CompletionSearch {
    uint32_t width;  // paths that are followed at a time, the likeliest; the same number of
                     // paths within what was typed
    uint32_t depth;  // tokens of a path after what was typed, at most
    // Paths with a smaller share of the probability of what was typed are dropped. Above 0, so are
    // those that are less likely than the last of the completions found so far.
    double least;

    static CompletionSearch words(uint32_t count) { return {count + 3, 8, 1e-4}; }
    static CompletionSearch lines(uint32_t count) { return {count + 3, 48, 1e-7}; }
};

// Keeps the states of what was read, so that a keystroke reads only what is new.
class Completer {
  public:
    explicit Completer(const Model &model);

    // At most `count` completions, the likeliest first. Only the end of a prefix counts that is
    // longer than the context. Throws `UsageError` where there is nothing to go on from.
    std::vector<Completion> complete(std::string_view prefix, uint32_t count, bool lines,
                                     const CompletionSearch &search);
    const Model &model() const { return model_; }

  private:
    // Where a path stands: before a word or inside it; in a line.
    enum Place : uint8_t { kBefore, kInside, kLine, kPlaces };
    // What bytes do at a place: they end the word or line before byte `end`, or go on at another.
    struct Effect {
        static constexpr int32_t kGoesOn = -1, kDead = -2;  // dead: no word
        int32_t end;
        Place place;
    };
    // A text that was read, in tokens, and the logits after it.
    struct Base {
        explicit Base(const Model &model) : state(model) {}
        std::vector<int32_t> tokens;
        State state;
        std::vector<float> logits;
        uint64_t used = 0;  // when
    };
    // A path of tokens after the base.
    struct Node {
        double probability;
        uint32_t parent;  // index in the level before
        int32_t token;
        uint32_t typed;   // bytes of `typed_` that it has written
        uint32_t depth;   // tokens after those
        Place place;
        uint32_t slot = 0;  // of its state in `pool_`
        std::string text = {};  // after what was typed
    };

    static Effect effect(Place place, std::string_view bytes);
    bool goes_on(std::string_view prefix) const;
    Base &read(std::string_view prefix, Place &place);
    void expand(const Node &node, uint32_t index, const float *logits);
    void expand_typed(const Node &node, uint32_t index, double unit);
    void expand_free(const Node &node, uint32_t index, double unit);
    void follow(const Node &node, uint32_t index, int32_t token, double probability,
                std::string_view bytes, Effect effect);
    void add(std::string_view text, std::string_view more, double probability);
    void keep_likeliest(std::vector<Node> &paths) const;
    bool select(const State &root);
    std::span<const int32_t> beginning_with(std::string_view bytes) const;
    double last_of_best() const;
    std::vector<Completion> best() const;

    const Model &model_;
    Session session_;
    size_t room_;  // tokens of the context that are left to the search
    // The vocabulary: ids in the order of their bytes; what each token does at a place, and 1 for
    // those that end a word or line before their first byte.
    std::vector<int32_t> sorted_;
    size_t longest_ = 0;
    std::array<std::vector<Effect>, kPlaces> effects_;
    std::array<std::vector<float>, kPlaces> ending_;

    std::string text_, last_;   // of the last call: what stays, and what was taken back
    std::vector<int32_t> ids_;  // of what stays
    std::deque<Base> bases_;
    uint64_t calls_ = 0;

    // Of the call in progress.
    CompletionSearch search_{};
    uint32_t count_ = 0;
    std::string typed_;  // bytes that were taken back
    Place start_ = kBefore;
    double covered_ = 0;  // probability of paths that wrote all of it
    double floor_ = 0;    // of a path that is followed
    std::vector<Node> level_;  // paths with states
    std::vector<Node> next_, typing_;  // that go on from them: through with `typed_`, or within it
    std::vector<State> pool_;
    std::vector<uint32_t> free_;  // slots
    std::vector<float> weights_;  // of a softmax
    std::vector<Row> rows_;
    std::unordered_map<std::string, double> found_;
    mutable std::vector<double> best_;
};

}  // namespace itera
