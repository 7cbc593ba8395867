// Opens bytes as a model and uses it; anything but success or an `Error` is a bug.
//
// With -fsanitize=fuzzer this is a libFuzzer target (`make fuzz`); with replay.cc, a program that
// any compiler builds and that replays files. Both are compiled with AddressSanitizer.
#include "fuzz_load.h"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <vector>

#include "run/batch.h"
#include "run/complete.h"
#include "run/generate.h"
#include "run/score.h"

// As in <sanitizer/allocator_interface.h>, which gcc doesn't bring along.
extern "C" int __sanitizer_install_malloc_and_free_hooks(
    void (*on_malloc)(const volatile void *, size_t), void (*on_free)(const volatile void *));
extern "C" size_t __sanitizer_get_allocated_size(const volatile void *memory);

namespace {

// The memory that opening and using a file may take at its peak: a multiple of its size, and a
// constant for the decoding state and the context.
constexpr size_t memory_per_byte = 16;
constexpr size_t memory_always = size_t{64} << 20;

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

void write(const itera::Model &model, itera::Session &session, itera::Stream &stream) {
    while (!stream.done()) itera::step(session, stream);
    model.tokenizer.decode(stream.tokens());
}

// Loads a model, writes text alone and in a batch, saves the state, goes on from it, scores and
// completes.
void use(std::span<const std::byte> bytes) {
    const itera::Model model = itera::Model(itera::Gguf(bytes));
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
    options.sampler.presence_penalty = options.sampler.frequency_penalty = 0.5f;
    options.top_log_probabilities = 3;
    const std::string saved = first.state().save();
    itera::Stream second(model, itera::State::restore(model, saved), {prompt[0]}, options);
    itera::Stream third(model, itera::State(model), prompt, options);
    itera::Stream *const both[] = {&second, &third};
    itera::Batch batch(model, 4);
    for (std::vector<std::string> pieces; !second.done() || !third.done();)
        batch.step(both, pieces);
    for (const itera::Stream *stream : both)
        if (stream->error()) std::rethrow_exception(stream->error());

    itera::ScoreOptions scoring;
    scoring.window = 8;
    for (const itera::Score &score : itera::score(model, {"the hat, the heath", ""}, scoring)) {
        if (!std::isfinite(score.nats)) throw std::logic_error("a score that is no number");
    }
    itera::Completer completer(model);
    for (const bool lines : {false, true})
        for (const auto &found : completer.complete("the heat,\n\xff th", 3, lines, {2, 3, 1e-4}))
            if (!(found.probability > 0 && found.probability < 1.001))
                throw std::logic_error("a probability of more than 1");
}

}  // namespace

std::string outcome(std::span<const std::byte> bytes) {
    static const int hooks = __sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
    (void)hooks;
    live = 0;
    allowed = memory_always + memory_per_byte * bytes.size();
    std::string message;
    try {
        use(bytes);
    } catch (const itera::Error &error) {
        message = error.what();
    }
    allowed = SIZE_MAX;
    return message;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    // A copy of just this size, aligned: the sanitizer sees a read beyond its end.
    const auto *begin = reinterpret_cast<const std::byte *>(data);
    const std::vector<std::byte> bytes(begin, begin + size);
    outcome(bytes);
    return 0;
}
