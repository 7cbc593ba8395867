#pragma once

#include <nanobind/nanobind.h>

namespace itera {

void bind_model(nanobind::module_ &m);

}  // namespace itera
