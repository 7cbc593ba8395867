// Binds Tokenizer, Sampler and log_probability; called once by the module.
#pragma once

#include <nanobind/nanobind.h>

namespace itera {

void bind_text(nanobind::module_ &m);

}  // namespace itera
