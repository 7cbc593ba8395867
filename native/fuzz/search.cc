// How libFuzzer changes a file: half of the time by `mutate`, else by its own means, which learn
// from comparisons in the engine, and then mostly in the head.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "mutate.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size,
                                          unsigned int seed) {
    Random random{seed};
    if (random.below(2) == 0) {
        const auto *begin = reinterpret_cast<const std::byte *>(data);
        std::vector<std::byte> bytes(begin, begin + size);
        mutate(bytes, random);
        std::memcpy(data, bytes.data(), bytes.size());
        return std::max<size_t>(bytes.size(), 1);
    }
    if (size <= head_bytes || random.below(8) == 0) return LLVMFuzzerMutate(data, size, max_size);
    std::vector<uint8_t> head(data, data + head_bytes);
    const std::vector<uint8_t> rest(data + head_bytes, data + size);
    head.resize(std::min(2 * head_bytes, max_size - rest.size()));
    head.resize(LLVMFuzzerMutate(head.data(), head_bytes, head.size()));
    std::memcpy(data, head.data(), head.size());
    std::memcpy(data + head.size(), rest.data(), rest.size());
    return head.size() + rest.size();
}
