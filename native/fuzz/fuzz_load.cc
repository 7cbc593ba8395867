// Opens bytes as a model and uses it; anything but success or an `Error` is a bug.
//
// With -fsanitize=fuzzer this is a libFuzzer target (`make fuzz`). With replay.cc beside it, it is
// a program that any compiler builds and that replays files.
#include "fuzz_load.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../src/sampler.h"
#include "../src/session.h"

#if defined(__has_feature)  // clang; gcc defines the macro by itself
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
// As in <sanitizer/allocator_interface.h>, which gcc doesn't bring along.
extern "C" int __sanitizer_install_malloc_and_free_hooks(
    void (*on_malloc)(const volatile void *, size_t), void (*on_free)(const volatile void *));
extern "C" size_t __sanitizer_get_allocated_size(const volatile void *memory);
#endif

namespace {

// What opening and using a file may take at its peak: a multiple of its size and a constant for
// the decoding state and the context.
constexpr size_t memory_per_byte = 16;
constexpr size_t memory_always = size_t{64} << 20;

#ifdef __SANITIZE_ADDRESS__
size_t live = 0;  // bytes allocated since `use` began
size_t allowed = SIZE_MAX;

void on_malloc(const volatile void *, size_t size) {
    live += size;
    if (live <= allowed) return;
    const size_t asked = live;
    allowed = SIZE_MAX;  // the report allocates too
    std::fprintf(stderr, "allocated %zu bytes, beyond what a file of this size may take\n", asked);
    std::abort();
}

void on_free(const volatile void *memory) {
    const size_t size = __sanitizer_get_allocated_size(memory);
    live -= size < live ? size : live;  // it may be older than the count
}
#endif

// A prompt in one pass, some tokens after it, sampled both ways; save, restore, decode.
void use(std::span<const std::byte> bytes) {
    const itera::Model model = itera::Model::from_memory(bytes);
    std::vector<int32_t> ids = model.tokenizer.encode("the heat,\n\xff the\u00e9");
    itera::State state(model);
    itera::Session session(model, static_cast<uint32_t>(ids.size()));
    std::vector<itera::Row> rows;
    for (const int32_t id : ids) rows.push_back({id, &state});
    session.forward(rows);

    const int32_t vocab_size = model.tokenizer.size();
    itera::SamplerOptions options;
    options.repetition_penalty = 1.1f;
    itera::Sampler drawing(options, vocab_size);
    options.temperature = 0;
    itera::Sampler greedy(options, vocab_size);
    uint32_t last = static_cast<uint32_t>(ids.size()) - 1;
    for (int i = 0; i < 3; i++) {
        itera::Sampler &sampler = i == 0 ? greedy : drawing;
        const std::span logits(session.logits(last, 1), static_cast<size_t>(vocab_size));
        ids.push_back(sampler.sample(logits));
        sampler.accept(ids.back());
        const std::string saved = state.save();
        itera::State restored = itera::State::restore(model, saved);
        const itera::Row row{ids.back(), i == 1 ? &restored : &state};
        session.forward({&row, 1});
        last = 0;
    }
    model.tokenizer.decode(ids);
}

}  // namespace

std::string outcome(std::span<const std::byte> bytes) {
#ifdef __SANITIZE_ADDRESS__
    static const int hooks = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
    (void)hooks;
    live = 0;
    allowed = memory_always + memory_per_byte * bytes.size();
#endif
    std::string message;
    try {
        use(bytes);
    } catch (const itera::Error &error) {
        message = error.what();
    }
#ifdef __SANITIZE_ADDRESS__
    allowed = SIZE_MAX;
#endif
    return message;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    // A copy of just this size, aligned: the sanitizer sees a read beyond its end.
    const auto *begin = reinterpret_cast<const std::byte *>(data);
    const std::vector<std::byte> bytes(begin, begin + size);
    outcome(bytes);
    return 0;
}
