#include "run/batch.h"

#include <algorithm>

namespace itera {

namespace {

uint32_t checked(uint32_t max_rows) {
    if (max_rows < 1 || max_rows > kMostRows)
        throw UsageError("max_rows=" + std::to_string(max_rows) + ": expected 1 to " +
                         std::to_string(kMostRows));
    return max_rows;
}

}  // namespace

Batch::Batch(const Model &model, uint32_t max_rows)
    : model_(model), session_(model, checked(max_rows)) {}

// Gives each waiting prompt an equal part of so many tokens; what one doesn't need, others get.
void Batch::share(std::span<Stream *const> streams, size_t tokens) {
    for (size_t hungry = waiting_.size(); tokens && hungry;) {
        const size_t each = (tokens + hungry - 1) / hungry;
        hungry = 0;
        for (Part &part : waiting_) {
            const size_t all = streams[part.stream]->pending().size();
            const size_t more = std::min({each, all - part.tokens, tokens});
            part.tokens += uint32_t(more);
            tokens -= more;
            hungry += part.tokens < all;
        }
    }
    for (const Part &part : waiting_)
        if (part.tokens) parts_.push_back(part);
}

void Batch::step(std::span<Stream *const> streams, std::vector<std::string> &pieces) {
    pieces.assign(streams.size(), {});
    parts_.clear();
    waiting_.clear();
    for (uint32_t i = 0; i < streams.size(); i++) {
        if (streams[i]->done()) continue;
        if (streams[i]->pending().size() == 1)
            parts_.push_back({i, 1});
        else
            waiting_.push_back({i, 0});
    }
    const size_t rows = session_.max_rows();
    share(streams, std::max(rows - parts_.size() % rows, (rows + 3) / 4));
    for (size_t next = 0; next < parts_.size();) {
        rows_.clear();
        read_.clear();
        while (next < parts_.size() && rows_.size() < rows) {
            Part &part = parts_[next];
            const size_t done = rows_.size();
            const auto n = uint32_t(std::min<size_t>(part.tokens, rows - done));
            Stream &stream = *streams[part.stream];
            for (const int32_t token : stream.pending().first(n))
                rows_.push_back({token, &stream.state()});
            read_.push_back({part.stream, n});
            part.tokens -= n;
            next += part.tokens == 0;
        }
        session_.forward(rows_);
        for (const Part &part : read_) streams[part.stream]->mark_read(part.tokens);
        choose(streams, pieces);
    }
}

// The next token of each stream of this pass whose pending tokens are read.
void Batch::choose(std::span<Stream *const> streams, std::vector<std::string> &pieces) {
    const auto ready = [&](const Part &part) { return streams[part.stream]->pending().empty(); };
    uint32_t end = 0;  // row after those of the parts so far
    for (size_t i = 0; i < read_.size();) {
        end += read_[i].tokens;
        if (!ready(read_[i++])) continue;
        // With the streams of one row that follow, so that their logits are one product.
        const size_t first = i - 1;
        const uint32_t first_row = end - 1;
        for (; i < read_.size() && read_[i].tokens == 1 && ready(read_[i]); i++) end++;
        session_.logits(first_row, end, [&](uint32_t row, float *logits) {
            const uint32_t stream = read_[first + (row - first_row)].stream;
            try {
                pieces[stream] = streams[stream]->choose(logits);
            } catch (...) {
                // The stream has the error.
            }
        });
    }
}

}  // namespace itera
