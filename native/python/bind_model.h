// Binds Model, State, Stream, Score and what measures them; called once by the module.
#pragma once

#include <nanobind/nanobind.h>

namespace itera {

void bind_model(nanobind::module_ &m);

}  // namespace itera
