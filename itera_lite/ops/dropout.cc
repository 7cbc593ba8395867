// Dropout by itself; norm.cc has it inside the sum into the residual stream.
#include "dropout.h"

using namespace itera;

namespace {

template <typename T>
void dropout(const T* x, T* y, int64_t n, float scale, Drop drop) {
  columns(n, [&](int64_t i, auto at) { at.store(y + i, scale * drop(at.load(x + i), i)); });
}

}  // namespace

#define DROPOUT(T, S)                                                                       \
  extern "C" void dropout_##S(const T* x, T* y, int64_t n, float scale, int64_t key,        \
                              int64_t threshold) {                                          \
    dropout(x, y, n, scale, Drop{uint32_t(key), uint32_t(threshold)});                      \
  }
ITERA_TYPES(DROPOUT)
