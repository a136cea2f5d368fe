#include "cpu_linear.h"

#include <algorithm>
#include <vector>

#include "cpu_isa.h"
#include "thread_pool.h"

namespace pdrt {
namespace {

// Bytes of weights that a thread multiplies before it asks for more, with few rows.
constexpr int64_t kItemBytes = 1 << 17;
// Bytes of a block's rows: they stay in the second-level cache, beside a panel.
constexpr int64_t kBlockBytes = 1 << 18;
constexpr int64_t kFewRows = 64;
// Below this many multiply-adds or bytes, waking a thread costs more than it saves.
constexpr int64_t kWorthSharing = 1 << 21;
// Inputs that a thread quantizes before it asks for more.
constexpr int64_t kItemInputs = 1 << 16;

struct Kernels {
  LinearKernel multiply;
  QuantizeKernel quantize;
};

// By Isa.
constexpr Kernels kKernels[] = {
    {linear_portable, quantize_portable},
    {linear_avx2, quantize_avx2},
    {linear_avx512, quantize_avx512},
    {linear_avx512_bf16, quantize_avx512},
};

const Kernels& kernels() { return kKernels[static_cast<int>(cpu_isa())]; }

// How a product is cut into blocks. No cut changes a bit.
struct Cut {
  int64_t block_rows, block_panels;

  explicit Cut(const Linear& linear) {
    const PackedShape& shape = linear.shape;
    const int64_t row_bytes = shape.is_int8 ? shape.num_groups() * int64_t{sizeof(InputGroup)}
                                            : shape.num_inputs * (shape.is_bfloat16 ? 2 : 4);
    block_rows = std::max(kFewRows, kBlockBytes / row_bytes / 8 * 8);
    block_panels = std::max<int64_t>(1, kItemBytes / shape.panel_bytes());
  }
};

// For the block's rows in float32, aligned to cache lines.
float* thread_scratch(const Linear& linear, const LinearBlock& block) {
  struct alignas(64) Line {
    float floats[16];
  };
  thread_local std::vector<Line> scratch;
  const int64_t size = (block.end_row - block.first_row) * linear.shape.num_inputs;
  const auto lines = static_cast<size_t>(size / 16 + 1);
  if (scratch.size() < lines) scratch.resize(lines);
  return scratch.data()->floats;
}

void multiply(const Linear& linear) {
  const PackedShape& shape = linear.shape;
  const int64_t num_panels = shape.num_panels();
  const LinearKernel run = kernels().multiply;
  const bool widens = shape.is_bfloat16 && !shape.is_int8 && cpu_isa() < Isa::kAvx512Bf16;
  const Cut cut(linear);
  const int64_t across = (num_panels + cut.block_panels - 1) / cut.block_panels;
  const int64_t down = (linear.num_rows + cut.block_rows - 1) / cut.block_rows;
  const auto item = [&](int64_t i) {
    const int64_t row = i / across * cut.block_rows, panel = i % across * cut.block_panels;
    const LinearBlock block = {row, std::min(linear.num_rows, row + cut.block_rows), panel,
                               std::min(num_panels, panel + cut.block_panels)};
    run(linear, block, widens ? thread_scratch(linear, block) : nullptr);
  };
  if (std::max<int64_t>(4, linear.num_rows) * shape.num_bytes() / 4 >= kWorthSharing)
    return ThreadPool::instance().run_stretches(across * down, item);
  for (int64_t i = 0; i < across * down; ++i) item(i);
}

// The rows of x in groups: once for all blocks, in memory that the next call takes again.
const InputGroup* quantized(const Linear& linear) {
  thread_local std::vector<InputGroup> memory;
  const int64_t row_groups = linear.shape.num_groups();
  const auto size = static_cast<size_t>(linear.num_rows * row_groups);
  if (memory.size() < size) memory.resize(size);
  InputGroup* groups = memory.data();
  const int64_t item_rows = std::max<int64_t>(1, kItemInputs / linear.shape.num_inputs);
  const QuantizeKernel run = kernels().quantize;
  const auto item = [&](int64_t i) {
    const int64_t first = i * item_rows;
    run(linear, first, std::min(linear.num_rows, first + item_rows), groups + first * row_groups);
  };
  if (linear.num_rows <= item_rows)
    item(0);
  else
    ThreadPool::instance().run((linear.num_rows + item_rows - 1) / item_rows, item);
  return groups;
}

}  // namespace

void cpu_linear(const Linear& linear) {
  if (!linear.shape.is_int8) return multiply(linear);
  Linear in_groups = linear;
  in_groups.x = quantized(linear);
  multiply(in_groups);
}

}  // namespace pdrt
