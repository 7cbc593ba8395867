// The Python module `itera_lite._engine`.
#include <nanobind/nanobind.h>

#include <cstring>

#include "gguf/error.h"
#include "python/bindings.h"

namespace nb = nanobind;

NB_MODULE(_engine, m) {
    m.doc() = "The native engine; use it through itera_lite.engine.";
    // Errors of the engine are raised as the package's own: the command line shows these without a
    // traceback.
    nb::register_exception_translator([](const std::exception_ptr &thrown, void *) {
        const auto raise = [](const char *name, const char *message) {
            const nb::object type = nb::module_::import_("itera_lite.errors").attr(name);
            // A path in a message may be no UTF-8.
            const nb::object text = nb::steal(
                PyUnicode_DecodeUTF8(message, Py_ssize_t(strlen(message)), "surrogateescape"));
            PyErr_SetObject(type.ptr(), text.ptr());
        };
        try {
            std::rethrow_exception(thrown);
        } catch (const itera::UsageError &error) {
            raise("UsageError", error.what());
        } catch (const itera::Error &error) {
            raise("ModelFileError", error.what());
        }
    });
    itera::bind_text(m);
    itera::bind_model(m);
}
