// Compares every kernel of an instruction set with the portable one, on random numbers.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace itera {

struct KernelCheck {
    std::string kernel;
    double difference;  // largest, relative to the largest number of the portable result
    double allowed;
    bool good() const { return difference <= allowed; }  // false for NaN
};

// One result a kernel: the worst of all the sizes that were tried, which are few where it is to be
// quick.
std::vector<KernelCheck> check_kernels(const Kernels &kernels, bool quick = false);

}  // namespace itera
