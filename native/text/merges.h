// Byte-pair merging (Sennrich et al., 2016): of all adjacent pairs that have a merge, the one of
// the lowest rank is merged first, the leftmost where several are equal, until none is left.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "gguf/error.h"
#include "text/hash.h"

namespace itera {

class Merges {
  public:
    static constexpr uint32_t kNone = UINT32_MAX;

    // Room for `count` merges.
    explicit Merges(size_t count = 0)
        : slots_(std::bit_ceil(2 * count + 1)), mask_(slots_.size() - 1) {
        results_.reserve(count);
    }

    // The pair gets the next rank. False where it has one already.
    bool add(int32_t left, int32_t right, int32_t result) {
        const uint64_t key = pair_key(left, right);
        Slot *slot = find(key);
        if (slot->rank != kNone) return false;
        *slot = {key, static_cast<uint32_t>(results_.size())};
        results_.push_back(result);
        return true;
    }

    uint32_t rank(int32_t left, int32_t right) const {
        return const_cast<Merges *>(this)->find(pair_key(left, right))->rank;
    }

    // Merges the symbols, which are changed, and appends the result to `out`.
    void apply(std::vector<int32_t> &symbols, std::vector<int32_t> &out) const {
        if (symbols.size() <= kShort) {
            apply_short(symbols.data(), symbols.size(), out);
        } else {
            apply_long(symbols, out);
        }
    }

  private:
    struct Slot {
        uint64_t key = 0;
        uint32_t rank = kNone;
    };
    static constexpr size_t kShort = 48;  // up to here a scan for each merge beats a heap

    static uint64_t pair_key(int32_t left, int32_t right) {
        return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
    }

    Slot *find(uint64_t key) {  // its slot, or the free one where it belongs
        size_t i = mix64(key ^ key_) & mask_;
        while (slots_[i].rank != kNone && slots_[i].key != key) i = (i + 1) & mask_;
        return &slots_[i];
    }

    void apply_short(int32_t *symbols, size_t n, std::vector<int32_t> &out) const {
        uint32_t ranks[kShort];  // of the pair that begins here
        for (size_t i = 0; i + 1 < n; ++i) ranks[i] = rank(symbols[i], symbols[i + 1]);
        while (n > 1) {
            const size_t at = static_cast<size_t>(std::min_element(ranks, ranks + n - 1) - ranks);
            if (ranks[at] == kNone) break;
            symbols[at] = results_[ranks[at]];
            std::copy(symbols + at + 2, symbols + n, symbols + at + 1);
            std::copy(ranks + at + 1, ranks + n - 1, ranks + at);
            --n;
            if (at > 0) ranks[at - 1] = rank(symbols[at - 1], symbols[at]);
            if (at + 1 < n) ranks[at] = rank(symbols[at], symbols[at + 1]);
        }
        out.insert(out.end(), symbols, symbols + n);
    }

    // A linked list of symbols and a heap of pairs: n log n, whatever the text.
    void apply_long(std::vector<int32_t> &symbols, std::vector<int32_t> &out) const {
        if (symbols.size() >= kNone) {
            throw Error("a word of " + std::to_string(symbols.size()) +
                        " bytes: expected less than 4 GiB without a border; split the text");
        }
        const auto n = static_cast<uint32_t>(symbols.size());
        std::vector<uint32_t> ranks(n), next(n), previous(n);
        std::vector<uint64_t> entries;  // rank << 32 | index; stale ones are skipped
        entries.reserve(n);
        for (uint32_t i = 0; i < n; ++i) {
            next[i] = i + 1;
            previous[i] = i - 1;
            ranks[i] = i + 1 < n ? rank(symbols[i], symbols[i + 1]) : kNone;
            if (ranks[i] != kNone) entries.push_back(uint64_t{ranks[i]} << 32 | i);
        }
        std::priority_queue<uint64_t, std::vector<uint64_t>, std::greater<>> queue(
            std::greater<>{}, std::move(entries));
        const auto renew = [&](uint32_t i) {
            ranks[i] = next[i] < n ? rank(symbols[i], symbols[next[i]]) : kNone;
            if (ranks[i] != kNone) queue.push(uint64_t{ranks[i]} << 32 | i);
        };
        while (!queue.empty()) {
            const uint64_t entry = queue.top();
            queue.pop();
            const auto at = static_cast<uint32_t>(entry);
            if (ranks[at] != entry >> 32) continue;
            const uint32_t gone = next[at];
            symbols[at] = results_[ranks[at]];
            ranks[gone] = kNone;
            next[at] = next[gone];
            if (next[at] < n) previous[next[at]] = at;
            renew(at);
            if (at > 0) renew(previous[at]);
        }
        for (uint32_t i = 0; i < n; i = next[i]) out.push_back(symbols[i]);
    }

    std::vector<Slot> slots_;
    size_t mask_;
    uint64_t key_ = random_key();
    std::vector<int32_t> results_;  // by rank
};

}  // namespace itera
