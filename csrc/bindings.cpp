// The extension's table of contents. Types and docs for Python: pdrt/_C.pyi.
#include "bindings.h"

#include "translate_errors.h"

PYBIND11_MODULE(PDRT_MODULE, m) {
  pybind11::register_local_exception_translator(pdrt::translate_system_error);
  pdrt::bind_ledger(m);
  pdrt::bind_page_memory(m);
  pdrt::bind_cpu_kernels(m);
  pdrt::bind_cpu_rows(m);
  pdrt::bind_cpu_linear(m);
  pdrt::bind_cpu_draw(m);
  pdrt::bind_step_tape(m);
}
