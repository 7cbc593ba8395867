// Inflates gzip's format (RFC 1952, RFC 1951).
#include "wasm/zlib.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr unsigned kMostBits = 15;  // of a code

constexpr std::array<uint32_t, 256> kCrcs = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
        table[i] = crc;
    }
    return table;
}();

uint32_t crc32(const Bytef *data, size_t n) {
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++) crc = kCrcs[(crc ^ data[i]) & 255] ^ crc >> 8;
    return ~crc;
}

// A Huffman code as a table by the next bits, as many as its longest word has. An entry is
// symbol * 16 + bits; 0: no word begins so.
struct Code {
    std::vector<uint16_t> table{0};
    unsigned bits = 0;

    // From the lengths of the symbols' words. False where they are too many, or leave bits without
    // a word; one word alone may do so where `one_may_do` is set.
    bool build(const uint8_t *lengths, size_t n, bool one_may_do) {
        unsigned counts[kMostBits + 1] = {}, next[kMostBits + 2] = {};
        for (size_t i = 0; i < n; i++) counts[lengths[i]]++;
        counts[0] = 0;
        for (bits = kMostBits; bits > 0 && !counts[bits]; bits--) {}
        table.assign(size_t{1} << bits, 0);
        if (bits == 0) return true;  // an error where a word is read
        int left = 1;
        for (unsigned length = 1; length <= kMostBits; length++) {
            left = 2 * left - int(counts[length]);
            if (left < 0) return false;
            next[length + 1] = (next[length] + counts[length]) << 1;
        }
        if (left > 0 && !(one_may_do && bits == 1)) return false;
        for (size_t i = 0; i < n; i++) {
            if (!lengths[i]) continue;
            const unsigned word = next[lengths[i]]++;
            unsigned reversed = 0;  // words come with their first bit in the lowest place
            for (unsigned bit = 0; bit < lengths[i]; bit++)
                reversed |= (word >> bit & 1) << (lengths[i] - 1 - bit);
            for (size_t at = reversed; at < table.size(); at += size_t{1} << lengths[i])
                table[at] = uint16_t(i << 4 | lengths[i]);
        }
        return true;
    }
};

class Inflation {
  public:
    explicit Inflation(z_stream &stream)
        : stream_(stream), in_(stream.next_in), in_end_(in_ + stream.avail_in),
          out_(stream.next_out), out_end_(out_ + stream.avail_out) {}

    int run() {
        if (header() && blocks() && trailer()) status_ = Z_STREAM_END;
        stream_.next_in = const_cast<Bytef *>(in_);
        stream_.avail_in = uInt(in_end_ - in_);
        stream_.avail_out = uInt(out_end_ - out_);
        stream_.total_out = static_cast<unsigned long>(out_ - stream_.next_out);
        stream_.next_out = out_;
        return status_;
    }

  private:
    bool damaged(const char *why) {
        stream_.msg = why;
        status_ = Z_DATA_ERROR;
        return false;
    }
    bool no_room() {  // or no input: the caller sees which by what is left of both
        status_ = Z_BUF_ERROR;
        return false;
    }

    // Bits come from the lowest of a byte on. After the input's end they are 0, and `count_` is
    // the number of those that were read.
    void fill() {
        for (; count_ <= 56 && in_ < in_end_; count_ += 8) hold_ |= uint64_t{*in_++} << count_;
    }
    void drop(unsigned n) {
        hold_ >>= n;
        count_ -= n;
    }
    bool take(unsigned n, uint32_t &value) {
        fill();
        if (count_ < n) return no_room();
        value = uint32_t(hold_ & ((uint64_t{1} << n) - 1));
        drop(n);
        return true;
    }
    // The next symbol; `invalid` is the message where no word fits.
    bool decode(const Code &code, const char *invalid, uint32_t &symbol) {
        fill();
        const uint16_t entry = code.table[hold_ & ((uint64_t{1} << code.bits) - 1)];
        const unsigned length = entry & 15;
        if (length == 0 && count_ >= code.bits) return damaged(invalid);
        if (length == 0 || count_ < length) return no_room();
        drop(length);
        symbol = entry >> 4;
        return true;
    }
    // Goes on at a whole byte.
    void align() {
        in_ -= count_ / 8;
        hold_ = count_ = 0;
    }

    bool header() {
        const Bytef *start = in_;
        uint32_t magic, method, flags, skipped;
        if (!take(16, magic) || !take(8, method) || !take(8, flags)) return false;
        if (magic != 0x8b1f) return damaged("incorrect header check");
        if (method != 8) return damaged("unknown compression method");
        if (flags & 0xe0) return damaged("unknown header flags set");
        if (!take(32, skipped) || !take(16, skipped)) return false;  // time, extra flags, system
        if (flags & 4) {
            uint32_t length;
            if (!take(16, length)) return false;
            while (length--)
                if (!take(8, skipped)) return false;
        }
        for (const uint32_t text : {8u, 16u})  // a name, a comment
            if (flags & text) {
                do
                    if (!take(8, skipped)) return false;
                while (skipped);
            }
        align();
        if (flags & 2) {
            const uint32_t crc = crc32(start, size_t(in_ - start)) & 0xffff;
            uint32_t stored;
            if (!take(16, stored)) return false;
            if (stored != crc) return damaged("header crc mismatch");
        }
        return true;
    }

    bool trailer() {
        align();
        uint32_t crc, length;
        if (!take(32, crc)) return false;
        const auto written = size_t(out_ - stream_.next_out);
        if (crc != crc32(stream_.next_out, written)) return damaged("incorrect data check");
        if (!take(32, length)) return false;
        if (length != uint32_t(written)) return damaged("incorrect length check");
        align();
        return true;
    }

    bool blocks() {
        for (uint32_t last = 0; !last;) {
            uint32_t type;
            if (!take(1, last) || !take(2, type)) return false;
            if (type == 3) return damaged("invalid block type");
            const bool good = type == 0 ? stored() : (type == 1 ? fixed() : dynamic()) && symbols();
            if (!good) return false;
        }
        return true;
    }

    bool stored() {
        align();
        uint32_t length, inverse;
        if (!take(16, length) || !take(16, inverse)) return false;
        if (length != (~inverse & 0xffff)) return damaged("invalid stored block lengths");
        align();
        const size_t n = std::min({size_t(length), size_t(in_end_ - in_), size_t(out_end_ - out_)});
        if (n) std::memcpy(out_, in_, n);
        in_ += n;
        out_ += n;
        return n == length || no_room();
    }

    bool fixed() {
        uint8_t lengths[288];
        for (int i = 0; i < 288; i++) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
        literals_.build(lengths, 288, false);
        std::memset(lengths, 5, 32);
        distances_.build(lengths, 32, false);
        return true;
    }

    bool dynamic() {
        constexpr uint8_t kOrder[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                                        11, 4,  12, 3, 13, 2, 14, 1, 15};
        uint32_t n_literals, n_distances, n_codes;
        if (!take(5, n_literals) || !take(5, n_distances) || !take(4, n_codes)) return false;
        n_literals += 257;
        n_distances += 1;
        if (n_literals > 286 || n_distances > 30)
            return damaged("too many length or distance symbols");
        uint8_t lengths[320] = {};
        for (uint32_t i = 0; i < n_codes + 4; i++) {
            uint32_t length;
            if (!take(3, length)) return false;
            lengths[kOrder[i]] = uint8_t(length);
        }
        if (!literals_.build(lengths, 19, false) || literals_.bits == 0)
            return damaged("invalid code lengths set");
        const uint32_t total = n_literals + n_distances;
        for (uint32_t i = 0; i < total;) {
            uint32_t symbol, more = 1;
            if (!decode(literals_, "invalid code lengths set", symbol)) return false;
            uint8_t length = uint8_t(symbol);
            if (symbol >= 16) {
                if (!take(symbol == 16 ? 2 : symbol == 17 ? 3 : 7, more)) return false;
                more += symbol == 18 ? 11 : 3;
                if ((symbol == 16 && i == 0) || more > total - i)
                    return damaged("invalid bit length repeat");
                length = symbol == 16 ? lengths[i - 1] : 0;
            }
            std::memset(lengths + i, length, more);
            i += more;
        }
        if (lengths[256] == 0) return damaged("invalid code -- missing end-of-block");
        if (!literals_.build(lengths, n_literals, true))
            return damaged("invalid literal/lengths set");
        if (!distances_.build(lengths + n_literals, n_distances, true))
            return damaged("invalid distances set");
        return true;
    }

    bool symbols() {
        constexpr uint16_t kLengths[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,
                                           15, 17, 19, 23, 27, 31, 35, 43, 51,  59,
                                           67, 83, 99, 115, 131, 163, 195, 227, 258};
        constexpr uint16_t kDistances[30] = {
            1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
            193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
        for (;;) {
            uint32_t symbol, more, distance;
            if (!decode(literals_, "invalid literal/length code", symbol)) return false;
            if (symbol < 256) {
                if (out_ == out_end_) return no_room();
                *out_++ = Bytef(symbol);
                continue;
            }
            if (symbol == 256) return true;
            symbol -= 257;
            if (symbol > 28) return damaged("invalid literal/length code");
            if (!take(symbol < 8 || symbol == 28 ? 0 : (symbol - 4) / 4, more)) return false;
            const size_t length = kLengths[symbol] + more;
            if (!decode(distances_, "invalid distance code", symbol)) return false;
            if (symbol > 29) return damaged("invalid distance code");
            if (!take(symbol < 4 ? 0 : (symbol - 2) / 2, more)) return false;
            distance = kDistances[symbol] + more;
            if (distance > size_t(out_ - stream_.next_out))
                return damaged("invalid distance too far back");
            const size_t n = std::min(length, size_t(out_end_ - out_));
            for (size_t i = 0; i < n; i++, out_++) *out_ = *(out_ - distance);  // may overlap
            if (n < length) return no_room();
        }
    }

    z_stream &stream_;
    const Bytef *in_, *in_end_;
    Bytef *out_, *out_end_;
    uint64_t hold_ = 0;
    unsigned count_ = 0;
    int status_ = Z_BUF_ERROR;
    Code literals_, distances_;
};

}  // namespace

int inflate(z_stream *stream, int) { return Inflation(*stream).run(); }
