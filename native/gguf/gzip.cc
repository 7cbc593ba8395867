#include "gguf/gzip.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>

#include <zlib.h>

#include "gguf/error.h"
#include "gguf/parse.h"

namespace itera {
namespace {

using std::to_string;

// Deflate stores up to 1,032 bytes in one. Weights in float32 that all lie on the same few levels
// take 20 times fewer bytes.
constexpr uint64_t kMostFold = 64;
constexpr uint64_t kAlways = uint64_t{1} << 20;
constexpr int kGzipOnly = 16 + MAX_WBITS;
constexpr const char *kRemedy = "; get or make the file again";

struct Inflater {
    z_stream stream{};
    Inflater() {
        if (inflateInit2(&stream, kGzipOnly) != Z_OK) throw Error("no memory is left to inflate it");
    }
    Inflater(const Inflater &) = delete;
    Inflater &operator=(const Inflater &) = delete;
    ~Inflater() { inflateEnd(&stream); }
};

}  // namespace

bool is_gzip(std::span<const std::byte> bytes) {
    return bytes.size() > 1 && bytes[0] == std::byte{0x1f} && bytes[1] == std::byte{0x8b};
}

Mapping gunzip(std::span<const std::byte> bytes) {
    constexpr uint64_t most = std::numeric_limits<uInt>::max();
    if (bytes.size() > most) throw Error("is a gzip file of more than 4 GiB: gunzip it first");
    // The last four bytes are the size of the content. They are only trusted to be enough.
    const uint64_t limit = std::min(kMostFold * bytes.size() + kAlways, most);
    uint64_t claimed = 0;
    if (bytes.size() >= 4) claimed = read_as<uint32_t>(bytes.data() + bytes.size() - 4);
    const uint64_t room = std::min(claimed, limit);

    Mapping content(room);
    std::byte none{};
    Inflater inflater;
    z_stream &stream = inflater.stream;
    stream.next_in = const_cast<Bytef *>(reinterpret_cast<const Bytef *>(bytes.data()));
    stream.avail_in = static_cast<uInt>(bytes.size());
    stream.next_out = reinterpret_cast<Bytef *>(room ? content.data() : &none);
    stream.avail_out = static_cast<uInt>(room);
    const int status = inflate(&stream, Z_FINISH);
    const uint64_t left = stream.avail_in;
    if (status == Z_STREAM_END && left > 0) {
        throw Error("is a gzip file with " + to_string(left) +
                    " bytes after its end; expected a single one" + kRemedy);
    }
    if (status == Z_STREAM_END && stream.total_out == room) return content;
    if (status == Z_BUF_ERROR && stream.avail_out == 0 && claimed > limit) {
        throw Error("is a gzip file that holds more than " + to_string(limit) +
                    " bytes, so many times its own size that it is no trained model; if it is "
                    "one, gunzip it first");
    }
    if (status == Z_BUF_ERROR && left == 0) {
        throw Error(std::string("is a gzip file that is cut short") + kRemedy);
    }
    if (status == Z_MEM_ERROR) throw Error("no memory is left to inflate it");
    const char *what = stream.msg != nullptr
                           ? stream.msg
                           : "its content is larger than its last four bytes state; of 4 GiB and "
                             "more they can't: gunzip it first";
    throw Error(std::string("is a damaged gzip file (") + what + ")" + kRemedy);
}

}  // namespace itera
