// What gguf/gzip.cc uses of zlib, for WebAssembly, where no zlib can be linked: Debian and PyPI
// have it compiled for other machines only. A whole gzip member is inflated in one call, with zlib's
// results and messages; a test holds it against zlib.
#pragma once

using Bytef = unsigned char;
using uInt = unsigned;

inline constexpr int Z_OK = 0, Z_STREAM_END = 1, Z_DATA_ERROR = -3, Z_MEM_ERROR = -4,
                     Z_BUF_ERROR = -5, Z_FINISH = 4, MAX_WBITS = 15;

struct z_stream {
    Bytef *next_in;
    uInt avail_in;
    Bytef *next_out;
    uInt avail_out;
    unsigned long total_out;
    const char *msg;
};

inline int inflateInit2(z_stream *, int) { return Z_OK; }
inline int inflateEnd(z_stream *) { return Z_OK; }
// Z_STREAM_END: `avail_in` bytes follow the member. Z_BUF_ERROR: the room or the input is too small.
// Z_DATA_ERROR: `msg` has the reason.
int inflate(z_stream *stream, int flush);
