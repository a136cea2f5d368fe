// The CPU kernels that read and write pages, for Python, with the checks of their arguments; and
// what all CPU kernels share.
#include <pybind11/stl.h>

#include <cstdint>

#include "bindings.h"
#include "cpu_attention.h"
#include "cpu_isa.h"
#include "elementwise.h"
#include "step_tape.h"
#include "tensor_argument.h"
#include "thread_pool.h"

namespace py = pybind11;
using namespace py::literals;

namespace pdrt {
namespace {

// K and V of one layer: [num_pages, 2, num_kv_heads, page_size, head_dim], rows of a head together.
void check_kv(const TensorArgument& kv, Dtype dtype, int64_t num_kv_heads, int64_t head_dim) {
  kv.check(dtype, {kv.size(0), 2, num_kv_heads, kv.size(3), head_dim});
  kv.check_strides({head_dim, 1});
}

void paged_attention(py::handle out_, py::handle query_, py::handle kv_, py::handle page_table_,
                     py::handle cu_seqlens_q_, py::handle seq_lens_, float scale, int64_t window) {
  const TensorArgument query("query", query_), kv("kv_layer", kv_), out("out", out_);
  const TensorArgument page_table("page_table", page_table_), seq_lens("seq_lens", seq_lens_);
  const TensorArgument cu_seqlens_q("cu_seqlens_q", cu_seqlens_q_);
  const Dtype dtype = query.floating();
  query.check_dims(3, "[num_tokens, num_heads, head_dim]");
  kv.check_dims(5, "[num_pages, 2, num_kv_heads, page_size, head_dim]");
  page_table.check_dims(2, "[num_rows, max_pages]");
  const int64_t num_tokens = query.size(0), num_heads = query.size(1), head_dim = query.size(2);
  const int64_t num_rows = page_table.size(0), num_kv_heads = kv.size(2), page_size = kv.size(3);
  check_kv(kv, dtype, num_kv_heads, head_dim);
  page_table.check_whole(Dtype::kInt32, {num_rows, page_table.size(1)});
  cu_seqlens_q.check_whole(Dtype::kInt32, {num_rows + 1});
  seq_lens.check_whole(Dtype::kInt32, {num_rows});
  PDRT_CHECK(num_kv_heads > 0 && num_heads % num_kv_heads == 0, "query has num_heads=", num_heads,
             "; give a multiple of num_kv_heads=", num_kv_heads);
  PDRT_CHECK(page_size > 0 && page_size % 16 == 0, "kv_layer has page_size=", page_size,
             "; give a multiple of 16");
  query.check_strides({head_dim, 1});
  out.check_whole(dtype, {num_tokens, num_heads, head_dim});
  const Attention attention = {
      .out = out.data(),
      .query = query.data(),
      .kv = kv.data(),
      .page_table = page_table.data<const int32_t>(),
      .cu_seqlens_q = cu_seqlens_q.data<const int32_t>(),
      .seq_lens = seq_lens.data<const int32_t>(),
      .num_tokens = num_tokens,
      .num_rows = num_rows,
      .num_heads = num_heads,
      .num_kv_heads = num_kv_heads,
      .head_dim = head_dim,
      .num_pages = kv.size(0),
      .page_size = page_size,
      .max_pages = page_table.size(1),
      .query_stride = query.stride(0),
      .page_stride = kv.stride(0),
      .value_offset = kv.stride(1),
      .head_stride = kv.stride(2),
      .window = window,
      .scale = scale,
      .is_bfloat16 = query.is_bfloat16(),
  };
  const py::gil_scoped_release without_gil;
  StepTape::run(num_tokens, [attention](int64_t tokens) {
    Attention step = attention;
    step.num_rows += tokens - step.num_tokens;  // replayed: of a decode step, a token for each row
    step.num_tokens = tokens;
    cpu_paged_attention(step);
  });
}

// The weight of the norm of each head, or null.
const void* head_norm(const char* name, py::handle object, Dtype dtype, int64_t head_dim) {
  if (object.is_none()) return nullptr;
  const TensorArgument norm(name, object);
  norm.check_whole(dtype, {head_dim});
  return norm.data();
}

void rope_kv_write(py::handle qkv_, py::handle kv_, py::handle slot_mapping_, py::handle positions_,
                   py::handle cos_sin_, int64_t num_heads, int64_t num_kv_heads, py::handle q_norm,
                   py::handle k_norm, float norm_eps) {
  const TensorArgument qkv("qkv", qkv_), kv("kv_layer", kv_), cos_sin("cos_sin", cos_sin_);
  const TensorArgument slot_mapping("slot_mapping", slot_mapping_);
  const TensorArgument positions("positions", positions_);
  const Dtype dtype = qkv.floating();
  qkv.check_dims(2, "[num_tokens, (num_heads + 2 * num_kv_heads) * head_dim]");
  kv.check_dims(5, "[num_pages, 2, num_kv_heads, page_size, head_dim]");
  cos_sin.check_dims(2, "[max_len, rotary_dim]");
  const int64_t num_tokens = qkv.size(0), head_dim = kv.size(4), rotary_dim = cos_sin.size(1);
  qkv.check(dtype, {num_tokens, (num_heads + 2 * num_kv_heads) * head_dim});
  check_kv(kv, dtype, num_kv_heads, head_dim);
  slot_mapping.check_whole(Dtype::kInt32, {num_tokens});
  positions.check_whole(Dtype::kInt32, {num_tokens});
  cos_sin.check_whole(Dtype::kFloat32, {cos_sin.size(0), rotary_dim});
  PDRT_CHECK(q_norm.is_none() == k_norm.is_none(), q_norm.is_none() ? "k_norm" : "q_norm",
             " is given alone; give q_norm and k_norm, or neither");
  PDRT_CHECK(rotary_dim <= head_dim && rotary_dim % 2 == 0, "cos_sin has rotary_dim=", rotary_dim,
             "; give an even one up to head_dim=", head_dim);
  qkv.check_strides({1});
  const Rope rope = {
      .qkv = qkv.data(),
      .kv = kv.data(),
      .slot_mapping = slot_mapping.data<const int32_t>(),
      .positions = positions.data<const int32_t>(),
      .cos_sin = cos_sin.data<const float>(),
      .q_norm = head_norm("q_norm", q_norm, dtype, head_dim),
      .k_norm = head_norm("k_norm", k_norm, dtype, head_dim),
      .norm_eps = norm_eps,
      .num_tokens = num_tokens,
      .num_heads = num_heads,
      .num_kv_heads = num_kv_heads,
      .head_dim = head_dim,
      .rotary_dim = rotary_dim,
      .max_len = cos_sin.size(0),
      .num_pages = kv.size(0),
      .page_size = kv.size(3),
      .qkv_stride = qkv.stride(0),
      .page_stride = kv.stride(0),
      .value_offset = kv.stride(1),
      .head_stride = kv.stride(2),
  };
  const py::gil_scoped_release without_gil;
  StepTape::run(num_tokens, [rope, is_bfloat16 = qkv.is_bfloat16()](int64_t tokens) {
    Rope step = rope;
    step.num_tokens = tokens;
    cpu_rope_kv_write(step, is_bfloat16);
  });
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
  // By position, not by keyword: a decode step calls these dozens of times.
  m.def("cpu_paged_attention", &paged_attention);
  m.def("cpu_rope_kv_write", &rope_kv_write);
}

}  // namespace pdrt
