#include "gguf/mapped_file.h"

#include <cerrno>
#include <cstdint>

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

MappedFile::MappedFile(const std::string &path) {
    // O_NONBLOCK: a named pipe without a writer would wait for ever here.
    const Descriptor file{open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (file.number < 0) throw Error("can't be opened: " + reason(errno) + kExpected);

    struct stat status {};
    if (fstat(file.number, &status) != 0) throw Error("can't be read: " + reason(errno));
    if (S_ISDIR(status.st_mode)) throw Error(std::string("is a folder") + kExpected);
    if (!S_ISREG(status.st_mode)) throw Error(std::string("is not a regular file") + kExpected);
    if (status.st_size == 0) return;  // a mapping can't be empty
    if (static_cast<uintmax_t>(status.st_size) > SIZE_MAX) {
        throw Error("is too large for this machine's address space");
    }

    const auto size = static_cast<size_t>(status.st_size);
    void *start = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number, 0);
    if (start == MAP_FAILED) throw Error("can't be mapped into memory: " + reason(errno));
    bytes_ = {static_cast<const std::byte *>(start), size};
}

MappedFile::~MappedFile() {
    if (!bytes_.empty()) munmap(const_cast<std::byte *>(bytes_.data()), bytes_.size());
}

void MappedFile::release(std::span<const std::byte> part) const {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    // Whole pages, neighbours' bytes included: the mapping is never written, so none can be lost.
    const size_t first = static_cast<size_t>(part.data() - bytes_.data()) / page * page;
    const size_t end = static_cast<size_t>(part.data() - bytes_.data()) + part.size();
    madvise(const_cast<std::byte *>(bytes_.data()) + first, end - first, MADV_DONTNEED);
}

}  // namespace itera
