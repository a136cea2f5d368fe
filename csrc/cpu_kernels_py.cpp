// The CPU kernels for Python. Tensors come as addresses: pdrt/kernels/cpu.py has checked them.
#include <pybind11/stl.h>

#include <cstdint>

#include "bindings.h"
#include "cpu_attention.h"
#include "cpu_isa.h"
#include "elementwise.h"
#include "thread_pool.h"

namespace py = pybind11;
using namespace py::literals;

namespace pdrt {
namespace {

template <typename T>
T* pointer(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

void paged_attention(uintptr_t out, uintptr_t query, uintptr_t kv, uintptr_t page_table,
                     uintptr_t cu_seqlens_q, uintptr_t seq_lens, int64_t num_tokens,
                     int64_t num_rows, int64_t num_heads, int64_t num_kv_heads, int64_t head_dim,
                     int64_t num_pages, int64_t page_size, int64_t max_pages, int64_t query_stride,
                     int64_t page_stride, int64_t value_offset, int64_t head_stride, int64_t window,
                     float scale, bool is_bfloat16) {
  cpu_paged_attention({
      .out = pointer<void>(out),
      .query = pointer<const void>(query),
      .kv = pointer<const void>(kv),
      .page_table = pointer<const int32_t>(page_table),
      .cu_seqlens_q = pointer<const int32_t>(cu_seqlens_q),
      .seq_lens = pointer<const int32_t>(seq_lens),
      .num_tokens = num_tokens,
      .num_rows = num_rows,
      .num_heads = num_heads,
      .num_kv_heads = num_kv_heads,
      .head_dim = head_dim,
      .num_pages = num_pages,
      .page_size = page_size,
      .max_pages = max_pages,
      .query_stride = query_stride,
      .page_stride = page_stride,
      .value_offset = value_offset,
      .head_stride = head_stride,
      .window = window,
      .scale = scale,
      .is_bfloat16 = is_bfloat16,
  });
}

void rope_kv_write(uintptr_t qkv, uintptr_t kv, uintptr_t slot_mapping, uintptr_t positions,
                   uintptr_t cos_sin, uintptr_t q_norm, uintptr_t k_norm, float norm_eps,
                   int64_t num_tokens, int64_t num_heads, int64_t num_kv_heads, int64_t head_dim,
                   int64_t rotary_dim, int64_t max_len, int64_t num_pages, int64_t page_size,
                   int64_t qkv_stride, int64_t page_stride, int64_t value_offset,
                   int64_t head_stride, bool is_bfloat16) {
  const Rope rope = {
      .qkv = pointer<void>(qkv),
      .kv = pointer<void>(kv),
      .slot_mapping = pointer<const int32_t>(slot_mapping),
      .positions = pointer<const int32_t>(positions),
      .cos_sin = pointer<const float>(cos_sin),
      .q_norm = pointer<const void>(q_norm),
      .k_norm = pointer<const void>(k_norm),
      .norm_eps = norm_eps,
      .num_tokens = num_tokens,
      .num_heads = num_heads,
      .num_kv_heads = num_kv_heads,
      .head_dim = head_dim,
      .rotary_dim = rotary_dim,
      .max_len = max_len,
      .num_pages = num_pages,
      .page_size = page_size,
      .qkv_stride = qkv_stride,
      .page_stride = page_stride,
      .value_offset = value_offset,
      .head_stride = head_stride,
  };
  cpu_rope_kv_write(rope, is_bfloat16);
}

// rms_norm and layer_norm; addresses that do not apply are 0.
void norm(void (*op)(const Norm&, bool), uintptr_t out, uintptr_t x, uintptr_t residual,
          uintptr_t weight, uintptr_t bias, int64_t num_rows, int64_t size, float eps,
          float weight_offset, bool is_bfloat16) {
  op({.out = pointer<void>(out),
      .x = pointer<const void>(x),
      .residual = pointer<void>(residual),
      .weight = pointer<const void>(weight),
      .bias = pointer<const void>(bias),
      .num_rows = num_rows,
      .size = size,
      .eps = eps,
      .weight_offset = weight_offset},
     is_bfloat16);
}

void bind_norms(py::module_& m) {
  m.def(
      "cpu_rms_norm",
      [](uintptr_t out, uintptr_t x, uintptr_t residual, uintptr_t weight, int64_t num_rows,
         int64_t size, float eps, float weight_offset, bool is_bfloat16) {
        norm(cpu_rms_norm, out, x, residual, weight, 0, num_rows, size, eps, weight_offset,
             is_bfloat16);
      },
      py::kw_only(), "out"_a, "x"_a, "residual"_a, "weight"_a, "num_rows"_a, "size"_a, "eps"_a,
      "weight_offset"_a, "is_bfloat16"_a, py::call_guard<py::gil_scoped_release>());
  m.def(
      "cpu_layer_norm",
      [](uintptr_t out, uintptr_t x, uintptr_t residual, uintptr_t weight, uintptr_t bias,
         int64_t num_rows, int64_t size, float eps, bool is_bfloat16) {
        norm(cpu_layer_norm, out, x, residual, weight, bias, num_rows, size, eps, 0.0f,
             is_bfloat16);
      },
      py::kw_only(), "out"_a, "x"_a, "residual"_a, "weight"_a, "bias"_a, "num_rows"_a, "size"_a,
      "eps"_a, "is_bfloat16"_a, py::call_guard<py::gil_scoped_release>());
}

void bind_activation(py::module_& m, const char* name, void (*op)(const Activation&, bool)) {
  m.def(
      name,
      [op](uintptr_t out, uintptr_t x, int64_t num_rows, int64_t size, bool is_bfloat16) {
        op({.out = pointer<void>(out),
            .x = pointer<const void>(x),
            .num_rows = num_rows,
            .size = size},
           is_bfloat16);
      },
      py::kw_only(), "out"_a, "x"_a, "num_rows"_a, "size"_a, "is_bfloat16"_a,
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace

void bind_cpu_kernels(py::module_& m) {
  const py::call_guard<py::gil_scoped_release> without_gil;
  m.attr("BUILD") = has_x86_kernels() ? "cpu (portable, avx2, avx512)" : "cpu (portable)";
  m.def("cpu_isa", &cpu_isa_name);
  m.def("set_cpu_isa", &set_cpu_isa, "name"_a);
  m.def(
      "set_num_threads", [](int n) { ThreadPool::instance().set_num_threads(n); }, "num_threads"_a,
      without_gil);
  m.def(
      "set_cores", [](const std::vector<int>& cores) { ThreadPool::instance().set_cores(cores); },
      "cores"_a, without_gil);
  m.def(
      "use_threads", [](const std::vector<int>& numbers) { ThreadPool::instance().use(numbers); },
      "numbers"_a, without_gil);
  m.def("cpu_paged_attention", &paged_attention, py::kw_only(), "out"_a, "query"_a, "kv"_a,
        "page_table"_a, "cu_seqlens_q"_a, "seq_lens"_a, "num_tokens"_a, "num_rows"_a, "num_heads"_a,
        "num_kv_heads"_a, "head_dim"_a, "num_pages"_a, "page_size"_a, "max_pages"_a,
        "query_stride"_a, "page_stride"_a, "value_offset"_a, "head_stride"_a, "window"_a, "scale"_a,
        "is_bfloat16"_a, without_gil);
  m.def("cpu_rope_kv_write", &rope_kv_write, py::kw_only(), "qkv"_a, "kv"_a, "slot_mapping"_a,
        "positions"_a, "cos_sin"_a, "q_norm"_a, "k_norm"_a, "norm_eps"_a, "num_tokens"_a,
        "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "rotary_dim"_a, "max_len"_a, "num_pages"_a,
        "page_size"_a, "qkv_stride"_a, "page_stride"_a, "value_offset"_a, "head_stride"_a,
        "is_bfloat16"_a, without_gil);
  bind_norms(m);
  bind_activation(m, "cpu_silu_and_mul", cpu_silu_and_mul);
  bind_activation(m, "cpu_gelu", cpu_gelu);
  bind_activation(m, "cpu_gelu_tanh", cpu_gelu_tanh);
  bind_activation(m, "cpu_gelu_tanh_and_mul", cpu_gelu_tanh_and_mul);
}

}  // namespace pdrt
