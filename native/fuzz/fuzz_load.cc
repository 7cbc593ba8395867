// Opens bytes as a model and uses it; anything but success or an `Error` is a bug.
//
// With -fsanitize=fuzzer this is a libFuzzer target (`make fuzz`). With replay.cc beside it, it is
// a program that any compiler builds and that replays files.
#include "fuzz_load.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "run/generate.h"
#include "run/score.h"

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

void write(const itera::Model &model, itera::Session &session, itera::Stream &stream) {
    std::vector<itera::Stream *> streams = {&stream};
    std::vector<std::string> pieces(1);
    while (!stream.done()) itera::step(session, streams, pieces);
    model.tokenizer.decode(stream.tokens());
}

// A model's whole life: load, write, keep the state, go on from it, score.
void use(std::span<const std::byte> bytes) {
    const itera::Model model = itera::Model::from_memory(bytes);
    itera::Session session(model, 8);
    const std::vector<int32_t> prompt = model.tokenizer.encode("the heat,\n\xff the\u00e9");
    itera::GenerateOptions options;
    options.max_tokens = 3;
    options.sampler.repetition_penalty = 1.1f;
    options.log_probabilities = true;
    options.ignore_end = true;
    itera::Stream first(model, itera::State(model), prompt, options);
    write(model, session, first);

    options.sampler.temperature = 0;
    const std::string saved = first.state().save();
    itera::Stream second(model, itera::State::restore(model, saved), {prompt[0]}, options);
    write(model, session, second);

    itera::ScoreOptions scoring;
    scoring.window = 8;
    for (const itera::Score &score : itera::score(model, {"the hat, the heath", ""}, scoring)) {
        if (!std::isfinite(score.nats)) throw std::logic_error("a score that is no number");
    }
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
