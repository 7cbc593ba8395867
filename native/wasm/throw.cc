// Exceptions where nothing can unwind the stack: Debian's C++ library for WebAssembly is built
// without them. What is thrown hands its message to JavaScript, which throws it there and gives this
// instance up, since the engine's objects stay as they were in the middle of the work. A `catch` is
// never reached: the compiler drops it.
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>

extern "C" {

// itera.js throws an IteraError with this message.
[[noreturn, clang::import_module("itera"), clang::import_name("raise")]] void itera_raise(
    const char *message, size_t bytes);

void *__cxa_allocate_exception(size_t bytes) noexcept { return ::operator new(bytes); }

// All that the engine and the library throw is derived from std::exception, and from that first.
[[noreturn]] void __cxa_throw(void *thrown, void *, void (*)(void *)) {
    const char *message = static_cast<const std::exception *>(thrown)->what();
    itera_raise(message, std::strlen(message));
}

}  // extern "C"

void *operator new(size_t bytes) {
    if (void *start = std::malloc(bytes ? bytes : 1)) return start;
    constexpr char kMessage[] =
        "no memory is left in WebAssembly; expected a smaller model or a shorter text";
    itera_raise(kMessage, sizeof kMessage - 1);
}
