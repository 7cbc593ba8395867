#include "mutate.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace {

void overwrite(std::vector<std::byte> &bytes, size_t at, uint64_t value, size_t width) {
    std::memcpy(bytes.data() + at, &value, std::min(width, bytes.size() - at));
}

}  // namespace

void mutate(std::vector<std::byte> &bytes, Random &random) {
    constexpr uint64_t edges[] = {0,          1,          2,          3,         31,
                                  33,         0x7f,       0xff,       0x7fff,    0xffff,
                                  0x7fffffff, 0x80000000, 0xffffffff, 1ull << 32, 1ull << 62,
                                  INT64_MAX,  1ull << 63, UINT64_MAX, 0x7fc00000, 0x7f800000};
    const size_t changes = 1 + random.below(4);
    for (size_t i = 0; i < changes && !bytes.empty(); i++) {
        const bool in_head = random.below(8) != 0;
        const size_t limit = in_head ? std::min(head_bytes, bytes.size()) : bytes.size();
        const size_t at = random.below(limit);
        switch (random.below(6)) {
            case 0: bytes[at] ^= static_cast<std::byte>(1u << random.below(8)); break;
            case 1: bytes[at] = static_cast<std::byte>(random.next()); break;
            case 2: overwrite(bytes, at, edges[random.below(std::size(edges))], 4); break;
            case 3: overwrite(bytes, at, edges[random.below(std::size(edges))], 8); break;
            case 4: {  // one part over another
                const size_t from = random.below(limit);
                const size_t length =
                    std::min(random.below(64), bytes.size() - std::max(at, from));
                std::memmove(bytes.data() + at, bytes.data() + from, length);
                break;
            }
            default:
                if (random.below(8) == 0) {
                    bytes.resize(at);
                } else {  // one less or one more is the likeliest mistake
                    bytes[at] = static_cast<std::byte>(static_cast<unsigned>(bytes[at]) +
                                                       (random.below(2) != 0 ? 1u : 255u));
                }
        }
    }
}
