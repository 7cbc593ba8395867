#include "run/complete.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <numeric>
#include <utility>

#include "text/pretokenizer.h"
#include "text/sampler.h"
#include "text/utf8.h"

namespace itera {

namespace {

constexpr uint32_t kRows = 64;       // tokens read in one pass
constexpr size_t kTakenBack = 32;    // bytes that are taken back at most
constexpr int kDecisive = 2;         // characters after a piece that make its end
constexpr size_t kBases = 8;         // texts whose states are kept: the last words
constexpr double kTiny = 1e-100;     // probabilities below are scaled up

bool is_word(char c) {
    const auto byte = uint8_t(c);
    return byte >= 0x80 || byte == '_' || (byte >= '0' && byte <= '9') ||
           ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'z');
}

// Where the piece begins in which the last word begins, with the spaces or the apostrophe before
// it; at most where the last piece does. The pieces before it are the same, whatever is typed next.
size_t begin_of_last(std::string_view text) {
    size_t word = text.size();
    while (word > 0 && is_word(text[word - 1])) word--;
    if (word > 0 && text[word - 1] == '\'')
        word--;
    else
        while (word > 0 && text[word - 1] == ' ') word--;
    size_t begin = 0;
    PreTokenizer pieces(text);
    for (size_t end = 0; end < text.size();) {
        const size_t next = end + pieces.next().size();
        if (end <= word) begin = end;
        end = next;
    }
    return begin;
}

// The sum of those weights whose mark is 1, both in whole vectors.
double sum_marked(const std::vector<float> &weights, const std::vector<float> &marks) {
    float lanes[kLanes] = {};
    for (size_t i = 0; i < weights.size(); i += kLanes)
        for (size_t l = 0; l < kLanes; l++) lanes[l] += weights[i + l] * marks[i + l];
    return std::accumulate(lanes, lanes + kLanes, 0.0);
}

}  // namespace

Completer::Completer(const Model &model) : model_(model), session_(model, kRows) {
    const Tokenizer &tokens = model.tokenizer;
    const auto vocab = size_t(model.config.vocab_size);
    const size_t padded = round_up(vocab, kLanes);
    room_ = std::min<size_t>(128, model.config.context / 2);
    weights_.resize(padded);
    for (size_t place = 0; place < kPlaces; place++) {
        effects_[place].resize(vocab);
        ending_[place].resize(padded);
    }
    for (int32_t id = 0; id < int32_t(vocab); id++) {
        // Control tokens have no bytes: one ends a text, the others never occur.
        const std::string_view bytes = id < tokens.size() ? tokens.bytes(id) : std::string_view();
        longest_ = std::max(longest_, bytes.size());
        if (!bytes.empty()) sorted_.push_back(id);
        for (const Place place : {kBefore, kInside, kLine}) {
            Effect &does = effects_[place][size_t(id)];
            does = {id == tokens.eot() && place != kBefore ? 0 : Effect::kDead, place};
            if (!bytes.empty()) does = effect(place, bytes);
            ending_[place][size_t(id)] = does.end == 0;
        }
    }
    std::ranges::sort(sorted_, {}, [&](int32_t id) { return tokens.bytes(id); });
}

Completer::Effect Completer::effect(Place place, std::string_view bytes) {
    for (size_t i = 0; i < bytes.size(); i++) {
        const char c = bytes[i];
        if (place == kLine) {
            if (c == '\n') return {int32_t(i), place};
        } else if (is_word(c)) {
            place = kInside;
        } else if (place == kInside) {
            return {int32_t(i), place};
        } else if (c != ' ') {
            return {Effect::kDead, place};
        }
    }
    return {Effect::kGoesOn, place};
}

// The tokens that begin with these bytes, in the order of their bytes.
std::span<const int32_t> Completer::beginning_with(std::string_view bytes) const {
    const auto key = [&](int32_t id) { return model_.tokenizer.bytes(id).substr(0, bytes.size()); };
    const auto found = std::ranges::equal_range(sorted_, bytes, {}, key);
    return {found.begin(), found.end()};
}

// Whether the text begins with `text_` and with the same pieces: a piece ends where the characters
// after it make it end, and two of them decide.
bool Completer::goes_on(std::string_view prefix) const {
    if (!prefix.starts_with(text_)) return false;
    std::string_view rest = prefix.substr(text_.size()), last = last_;
    for (int i = 0; i < kDecisive && !last.empty(); i++) {
        if (rest.empty()) return false;
        const Character before = first_character(last), now = first_character(rest);
        const bool same = before.is_valid == now.is_valid && before.bytes == now.bytes &&
                          rest.starts_with(last.substr(0, before.bytes));
        if (!same) return false;  // half a character may be whole now
        last.remove_prefix(before.bytes);
        rest.remove_prefix(now.bytes);
    }
    return true;
}

// Takes back what may be written in other tokens, and finds or makes the state before it.
Completer::Base &Completer::read(std::string_view prefix, Place &place) {
    if (place != kLine) place = !prefix.empty() && is_word(prefix.back()) ? kInside : kBefore;
    if (!goes_on(prefix)) {
        text_.clear();
        ids_.clear();
    }
    const std::string_view tail = prefix.substr(text_.size());
    const std::vector<int32_t> tail_ids = model_.tokenizer.encode(tail);
    const size_t begin = begin_of_last(tail);
    size_t next = 0, end = 0;  // of the tokens of the tail, those that stay, and their bytes
    const auto keep = [&](std::vector<int32_t> &ids) {
        ids.push_back(tail_ids[next]);
        end += model_.tokenizer.bytes(tail_ids[next++]).size();
    };
    while (end < begin) keep(ids_);
    text_ += tail.substr(0, begin);
    last_ = tail.substr(begin);
    const int32_t bos = model_.tokenizer.bos();
    std::vector<int32_t> ids = ids_;
    while (next < tail_ids.size() && ((ids.empty() && bos < 0) || tail.size() - end > kTakenBack))
        keep(ids);
    typed_ = tail.substr(end);
    if (ids.empty() && bos < 0)
        throw UsageError("an empty text: expected at least one token to go on from, for this "
                         "model's file says that nothing begins a document "
                         "(tokenizer.ggml.add_bos_token)");
    // A longer text is read from a later beginning, which stays the same for many keystrokes.
    const size_t n = ids.size(), most = model_.config.context - room_ - (bos >= 0);
    if (n > most) ids.erase(ids.begin(), ids.begin() + long(round_up(n - most, most / 2 + 1)));
    if (bos >= 0) ids.insert(ids.begin(), bos);

    calls_++;
    Base *nearest = nullptr, *oldest = nullptr;
    for (Base &base : bases_) {
        const size_t tokens = base.tokens.size();
        if (tokens > (nearest ? nearest->tokens.size() : 0) && tokens <= ids.size() &&
            std::equal(base.tokens.begin(), base.tokens.end(), ids.begin()))
            nearest = &base;
    }
    if (nearest && nearest->tokens.size() == ids.size()) {
        nearest->used = calls_;
        return *nearest;
    }
    for (Base &base : bases_)
        if (&base != nearest && (!oldest || base.used < oldest->used)) oldest = &base;
    Base &base = bases_.size() < kBases ? bases_.emplace_back(model_) : *oldest;
    size_t known = 0;
    base.tokens.clear();  // so that nothing is found here where reading fails
    if (nearest) {
        base.state.assign(nearest->state);
        known = nearest->tokens.size();
    } else {
        base.state.clear();
    }
    const std::span<const int32_t> rest = std::span(ids).subspan(known);
    session_.read(base.state, rest, [&](size_t at, uint32_t rows) {
        if (at + rows < rest.size()) return;
        session_.logits(rows - 1, rows, [&](uint32_t, const float *logits) {
            base.logits.assign(logits, logits + model_.config.vocab_size);
        });
    });
    base.tokens = std::move(ids);
    base.used = calls_;
    return base;
}

std::vector<Completion> Completer::complete(std::string_view prefix, uint32_t count, bool lines,
                                            const CompletionSearch &search) {
    search_ = search;
    count_ = count;
    start_ = lines ? kLine : kBefore;
    Base &base = read(prefix, start_);
    found_.clear();
    next_.clear();
    typing_.clear();
    level_.clear();
    free_.resize(pool_.size());
    std::iota(free_.rbegin(), free_.rend(), 0u);
    covered_ = typed_.empty() ? 1 : 0;
    floor_ = typed_.empty() ? search.least : 0;
    const Node root{1, 0, -1, 0, 0, start_};
    expand(root, 0, base.logits.data());
    for (uint32_t length = base.state.length();
         length < base.state.context() && select(base.state); length++) {
        for (size_t first = 0; first < level_.size(); first += kRows) {
            const size_t n = std::min<size_t>(kRows, level_.size() - first);
            rows_.clear();
            for (size_t i = first; i < first + n; i++)
                rows_.push_back({level_[i].token, &pool_[level_[i].slot]});
            session_.forward(rows_);
            session_.logits(0, uint32_t(n), [&](uint32_t row, const float *logits) {
                expand(level_[first + row], uint32_t(first + row), logits);
            });
        }
    }
    return best();
}

// Adds the paths that go on from a node by one token, and to `found_` what ends there.
void Completer::expand(const Node &node, uint32_t index, const float *logits) {
    const auto vocab = size_t(model_.config.vocab_size);
    const float max = Sampler::greatest({logits, vocab});
    const double mass = model_.kernels.exponentials(logits, vocab, max, 1, weights_.data());
    const double unit = node.probability / mass;  // of a weight of 1
    if (node.typed < typed_.size())
        expand_typed(node, index, unit);
    else
        expand_free(node, index, unit);
}

void Completer::expand_typed(const Node &node, uint32_t index, double unit) {
    const std::string_view rest = std::string_view(typed_).substr(node.typed);
    const auto probability = [&](int32_t id) { return unit * double(weights_[size_t(id)]); };
    // Tokens that end within what was typed.
    for (size_t n = 1; n < rest.size() && n <= longest_; n++) {
        const auto found = beginning_with(rest.substr(0, n));
        if (found.empty()) break;
        if (model_.tokenizer.bytes(found[0]).size() > n) continue;
        if (const double p = probability(found[0]); p > floor_)
            typing_.push_back({p, index, found[0], node.typed + uint32_t(n), 0, node.place});
    }
    const auto reaching = beginning_with(rest);
    for (const int32_t id : reaching) covered_ += probability(id);
    floor_ = std::max(floor_, search_.least * covered_);
    for (const int32_t id : reaching) {
        const double p = probability(id);
        if (!(p > floor_)) continue;
        const std::string_view more = model_.tokenizer.bytes(id).substr(rest.size());
        follow(node, index, id, p, more, effect(node.place, more));
    }
}

void Completer::expand_free(const Node &node, uint32_t index, double unit) {
    add(node.text, {}, unit * sum_marked(weights_, ending_[node.place]));
    const auto &effects = effects_[node.place];
    const auto least = float(std::min(floor_ / unit, 2.0));
    for (size_t block = 0; block < weights_.size(); block += kLanes) {
        bool any = false;  // most vectors hold none
        for (size_t l = 0; l < kLanes; l++) any |= weights_[block + l] > least;
        if (!any) continue;
        for (size_t id = block; id < block + kLanes; id++) {
            if (!(weights_[id] > least)) continue;
            const Effect does = effects[id];
            if (does.end == 0 || does.end == Effect::kDead) continue;  // 0: added already
            follow(node, index, int32_t(id), unit * double(weights_[id]),
                   model_.tokenizer.bytes(int32_t(id)), does);
        }
    }
}

// A token that goes on from a node with these bytes after what was typed.
void Completer::follow(const Node &node, uint32_t index, int32_t token, double probability,
                       std::string_view bytes, Effect does) {
    if (does.end >= 0) {
        add(node.text, bytes.substr(0, size_t(does.end)), probability);
    } else if (does.end == Effect::kGoesOn) {
        const uint32_t depth = node.typed < typed_.size() ? 0 : node.depth + 1;
        if (depth <= search_.depth)
            next_.push_back({probability, index, token, uint32_t(typed_.size()), depth, does.place});
    }
}

void Completer::add(std::string_view text, std::string_view more, double probability) {
    if (probability > 0 && text.size() + more.size() > 0)
        found_[std::string(text).append(more)] += probability;
}

// Drops the paths below the floor, and all but the likeliest.
void Completer::keep_likeliest(std::vector<Node> &paths) const {
    std::erase_if(paths, [&](const Node &node) { return !(node.probability > floor_); });
    if (paths.size() <= search_.width) return;
    std::ranges::nth_element(paths, paths.begin() + search_.width, std::greater<>(),
                             &Node::probability);
    paths.resize(search_.width);
}

// Keeps the likeliest of the paths that go on, and gives each a state; false where there are none.
bool Completer::select(const State &root) {
    double most = covered_;
    for (const Node &node : typing_) most = std::max(most, node.probability);
    if (most > 0 && most < kTiny) {  // only ratios count
        for (auto *paths : {&typing_, &next_})
            for (Node &node : *paths) node.probability /= most;
        for (auto &[text, probability] : found_) probability /= most;
        covered_ /= most;
        floor_ /= most;
    }
    if (search_.least > 0) floor_ = std::max(floor_, last_of_best());
    // Paths that are still within what was typed aren't compared with those that are through.
    keep_likeliest(typing_);
    keep_likeliest(next_);
    std::ranges::move(typing_, std::back_inserter(next_));
    typing_.clear();
    // By parent, so that the last path of each takes over its state and the others copy it.
    std::ranges::sort(next_, [](const Node &a, const Node &b) {
        return std::pair(a.parent, a.token) < std::pair(b.parent, b.token);
    });
    const bool is_first = level_.empty();
    for (uint32_t parent = 0, i = 0; parent < level_.size(); parent++) {
        const uint32_t begin = i;
        while (i < next_.size() && next_[i].parent == parent) i++;
        if (begin == i) free_.push_back(level_[parent].slot);
    }
    for (size_t i = 0; i < next_.size(); i++) {
        Node &node = next_[i];
        const bool is_last = i + 1 == next_.size() || next_[i + 1].parent != node.parent;
        const uint32_t written = is_first ? 0 : level_[node.parent].typed;
        if (!is_first) node.text = level_[node.parent].text;
        const std::string_view bytes = model_.tokenizer.bytes(node.token);
        node.text += bytes.substr(std::min(bytes.size(), typed_.size() - written));
        if (!is_first && is_last) {
            node.slot = level_[node.parent].slot;
            continue;
        }
        if (free_.empty()) {
            free_.push_back(uint32_t(pool_.size()));
            pool_.emplace_back(model_);
        }
        node.slot = free_.back();
        free_.pop_back();
        pool_[node.slot].assign(is_first ? root : pool_[level_[node.parent].slot]);
    }
    level_.swap(next_);
    next_.clear();
    return !level_.empty();
}

// The probability of the last of the best `count_` that were found; 0 where there are fewer.
double Completer::last_of_best() const {
    if (found_.size() < count_) return 0;
    best_.clear();
    for (const auto &[text, probability] : found_) best_.push_back(probability);
    std::ranges::nth_element(best_, best_.begin() + (count_ - 1), std::greater<>());
    return best_[count_ - 1];
}

std::vector<Completion> Completer::best() const {
    std::vector<Completion> all;
    for (const auto &[text, probability] : found_) all.push_back({text, probability / covered_});
    const auto order = [](const Completion &a, const Completion &b) {
        return a.probability != b.probability ? a.probability > b.probability : a.text < b.text;
    };
    const size_t n = std::min<size_t>(count_, all.size());
    std::ranges::partial_sort(all, all.begin() + long(n), order);
    all.resize(n);
    return all;
}

}  // namespace itera
