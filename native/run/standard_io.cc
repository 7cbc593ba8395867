#include "run/standard_io.h"

#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdio>

#include <fcntl.h>
#include <unistd.h>

#include "gguf/error.h"

namespace itera {

void guard_standard_streams() {
    for (const int number : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        if (fcntl(number, F_GETFD) >= 0 || errno != EBADF) continue;
        // Opened the wrong way round, so that reading or writing still fails.
        if (open("/dev/null", number == STDIN_FILENO ? O_WRONLY : O_RDONLY) < 0) return;
    }
    std::signal(SIGPIPE, SIG_IGN);
}

void write_output(std::string_view text) {
    while (!text.empty()) {
        const ssize_t n = write(STDOUT_FILENO, text.data(), text.size());
        if (n >= 0) {
            text.remove_prefix(size_t(n));
        } else if (errno == EPIPE) {
            throw BrokenPipe();
        } else if (errno != EINTR && errno != EAGAIN) {
            throw Error("standard output can't be written: " + reason(errno));
        }
    }
}

std::string formatted(const char *format, ...) {
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return text;
}

std::string read_input(const std::string &path) {
    const bool standard = path == "-";
    const std::string name = standard ? "standard input" : "'" + path + "'";
    const int file = standard ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC);
    std::string text;
    int failed = file < 0 ? errno : 0;
    char block[1 << 16];
    while (!failed) {
        const ssize_t n = read(file, block, sizeof block);
        if (n > 0) text.append(block, size_t(n));
        if (n == 0) break;
        if (n < 0 && errno != EINTR && errno != EAGAIN) failed = errno;
    }
    if (!standard && file >= 0) close(file);
    if (failed) throw Error(name + " can't be read: " + reason(failed));
    return text;
}

}  // namespace itera
