// The speed at which this processor reads memory, an upper bound of decoding.
#pragma once

#include <cstddef>

namespace itera {

// Bytes a second that one thread reads of a buffer of about `bytes`, again and again for about
// `seconds`, in the widest loads of the kernels in use. The buffer is allocated as a model's
// weights are, and is read from the cache level that has room for it. Throws `UsageError` for less
// than 1 KiB, more than 1 GiB, or a time that isn't in (0, 60].
double read_bandwidth(size_t bytes, double seconds);

}  // namespace itera
