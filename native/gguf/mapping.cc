#include "gguf/mapping.h"

#include <cerrno>
#include <cstdint>
#include <utility>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace itera {
namespace {

struct Descriptor {
    int number;
    ~Descriptor() {
        if (number >= 0) close(number);
    }
};

}  // namespace

Mapping::Mapping(const std::string &path) : of_file_(true) {
    // O_NONBLOCK: a named pipe without a writer would wait for ever here.
    const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (file.number < 0) throw Error("can't be opened: " + reason(errno) + kExpected);

    struct stat status {};
    if (fstat(file.number, &status) != 0) throw Error("can't be read: " + reason(errno));
    if (S_ISDIR(status.st_mode)) throw Error(std::string("is a folder") + kExpected);
    if (!S_ISREG(status.st_mode)) throw Error(std::string("is not a regular file") + kExpected);
    map(static_cast<uint64_t>(status.st_size), PROT_READ, MAP_PRIVATE, file.number);
}

Mapping::Mapping(uint64_t size) : of_file_(false) {
    map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
}

void Mapping::map(uint64_t size, int protection, int flags, int file) {
    if (size == 0) return;  // a mapping can't be empty
    if (size > SIZE_MAX) {
        throw Error("needs " + std::to_string(size) +
                    " bytes of memory, more than this machine can address");
    }
    void *start = mmap(nullptr, static_cast<size_t>(size), protection, flags, file, 0);
    if (start == MAP_FAILED) {
        throw Error("can't be held in memory, " + std::to_string(size) +
                    " bytes: " + reason(errno));
    }
    bytes_ = {static_cast<std::byte *>(start), static_cast<size_t>(size)};
}

Mapping::~Mapping() {
    if (!bytes_.empty()) munmap(bytes_.data(), bytes_.size());
}

void Mapping::release(std::span<const std::byte> part) const {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    size_t first = static_cast<size_t>(part.data() - bytes_.data());
    size_t end = first + part.size();
    if (of_file_) {
        first = first / page * page;  // the neighbours' bytes on these pages aren't lost
    } else {
        first = (first + page - 1) / page * page;
        end = end / page * page;
    }
    if (first < end) madvise(bytes_.data() + first, end - first, MADV_DONTNEED);
}

}  // namespace itera
