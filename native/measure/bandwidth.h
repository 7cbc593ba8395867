// How fast this processor reads memory: what the engine's speed is a share of.
#pragma once

#include <cstddef>

namespace itera {

// Bytes a second, one thread, of reading a buffer of about `bytes` again and again for about
// `seconds`, in the widest loads of the kernels in use. It lies in memory as a model's weights do,
// and comes from whatever cache level has room for it. Throws `UsageError` for less than 1 KiB,
// more than 1 GiB, or a time that isn't in (0, 60].
double read_bandwidth(size_t bytes, double seconds);

}  // namespace itera
