// Replays files through the fuzz target, without libFuzzer:
//
//     replay [-m MUTATIONS] [-s SEED] FILE...
//
// Prints a line a file: "FILE: good" or "FILE: error: MESSAGE". Exits with 1 where anything else
// came out. -m also tries that many seeded mutations of the files; the bytes of one that fails are
// left in replay-failed.gguf.
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

#include "fuzz_load.h"
#include "mutate.h"

namespace {

using Bytes = std::vector<std::byte>;

constexpr unsigned seconds_a_file = 20;
constexpr char failed_path[] = "replay-failed.gguf";

const Bytes *current = nullptr;  // the file that is being tried

// Also runs in a signal handler, so it only writes.
void keep_current() {
    if (current == nullptr) return;
    if (std::FILE *file = std::fopen(failed_path, "wb")) {
        std::fwrite(current->data(), 1, current->size(), file);
        std::fclose(file);
    }
}

extern "C" void on_signal(int number) {
    keep_current();
    std::signal(number, SIG_DFL);
    std::raise(number);
}

// A sanitizer's report ends in SIGABRT too.
extern "C" const char *__asan_default_options() { return "abort_on_error=1"; }
extern "C" const char *__ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

uint64_t n_good = 0, n_refused = 0;

// Whether the outcome is a good one; prints it unless `quiet`.
bool replay(const std::string &name, const Bytes &bytes, bool quiet) {
    current = &bytes;
    alarm(seconds_a_file);
    bool good = true;
    std::string line;
    try {
        const std::string message = outcome(bytes);
        line = message.empty() ? "good" : "error: " + message;
        (message.empty() ? n_good : n_refused)++;
    } catch (const std::exception &error) {
        line = std::string("FAILED: another exception: ") + error.what();
        good = false;
        keep_current();
    }
    alarm(0);
    current = nullptr;
    if (!good || !quiet) std::printf("%s: %s\n", name.c_str(), line.c_str());
    return good;
}

uint64_t number(const char *text) {
    uint64_t value = 0;
    const char *end = text + std::strlen(text);
    if (std::from_chars(text, end, value).ptr != end) {
        std::fprintf(stderr, "'%s': expected a whole number\n", text);
        std::exit(2);
    }
    return value;
}

}  // namespace

int main(int argc, char **argv) {
    uint64_t mutations = 0;
    Random random{0};
    int first = 1;
    for (; first + 1 < argc && argv[first][0] == '-'; first += 2) {
        const std::string_view option = argv[first];
        if (option != "-m" && option != "-s") break;
        (option == "-m" ? mutations : random.state) = number(argv[first + 1]);
    }
    if (first >= argc || argv[first][0] == '-') {
        std::fprintf(stderr, "usage: replay [-m MUTATIONS] [-s SEED] FILE...\n");
        return 2;
    }
    std::signal(SIGALRM, on_signal);
    std::signal(SIGABRT, on_signal);
    std::setvbuf(stdout, nullptr, _IOLBF, 0);

    bool good = true;
    std::vector<Bytes> files;
    for (int i = first; i < argc; i++) {
        std::ifstream stream(argv[i], std::ios::binary);
        if (!stream) {
            std::fprintf(stderr, "'%s' can't be read\n", argv[i]);
            return 2;
        }
        const std::string text{std::istreambuf_iterator<char>(stream), {}};
        const auto *begin = reinterpret_cast<const std::byte *>(text.data());
        files.emplace_back(begin, begin + text.size());
        good &= replay(argv[i], files.back(), false);
    }
    n_good = n_refused = 0;
    for (uint64_t i = 0; i < mutations; i++) {
        const size_t file = random.below(files.size());
        Bytes bytes = files[file];
        mutate(bytes, random);
        bytes.shrink_to_fit();  // the sanitizer sees a read beyond its end
        const std::string name =
            "mutation " + std::to_string(i) + " of " + argv[first + static_cast<int>(file)];
        good &= replay(name, bytes, true);
    }
    if (mutations > 0) {
        std::printf("%llu mutations: %llu good, %llu errors\n",
                    static_cast<unsigned long long>(mutations),
                    static_cast<unsigned long long>(n_good),
                    static_cast<unsigned long long>(n_refused));
    }
    return good ? 0 : 1;
}
