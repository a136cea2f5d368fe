// Linear layers on the CPU, over weights that were packed once for all processes.
//
// A packed weight is a row of panels. A panel holds 32 rows of the weight matrix (outputs), so that
// one tile of the product is 32 outputs wide, and lies in memory in the order in which a tile reads
// it:
//
//     float32     [panels][inputs][32]
//     bfloat16    [panels][inputs / 2][32][2]     pairs of inputs, as a dot instruction wants them
//
// What is missing at the ends, of outputs, inputs or a pair, is zero. In a gated weight (gate | up,
// each [size, inputs]) a panel holds 16 rows of gate and the 16 rows of up beside them, so that a
// tile has both factors of its 16 products.
#pragma once

#include <cstdint>

namespace pdrt {

constexpr int kPanel = 32;  // outputs of a panel

struct PackedShape {
  int64_t num_outputs;  // of gate and up together
  int64_t num_inputs;
  bool gated;
  bool is_bfloat16;

  int64_t num_panels() const {
    const int64_t rows = gated ? num_outputs / 2 : num_outputs, width = gated ? 16 : kPanel;
    return (rows + width - 1) / width;
  }
  int64_t panel_bytes() const {
    return is_bfloat16 ? (num_inputs + 1) / 2 * kPanel * 4 : num_inputs * kPanel * 4;
  }
  int64_t num_bytes() const { return num_panels() * panel_bytes(); }
};

// Writes rows [first_row, first_row + num_rows) of the weight matrix, which are contiguous and of
// the weight's dtype. What no row is written to must be zero before.
void pack_rows(const PackedShape& shape, void* packed, const void* rows, int64_t first_row,
               int64_t num_rows);

// out[i] = row ids[i] of the weight matrix. Throws std::invalid_argument, before anything is
// written, when there is no such row.
void gather_rows(const PackedShape& shape, const void* packed, const int32_t* ids, int64_t num_rows,
                 void* out);

enum class Act { kNone, kSilu, kGeluTanh, kGelu };

// out = residual + act(x weight^T + bias); with a gated weight act(gate) * up. Pointers are to
// float or bfloat16, as the weight is; all rows are contiguous.
struct Linear {
  void* out;      // [num_rows, num_outputs], gated half as many columns; float if float_out
  const void* x;  // [num_rows, num_inputs]
  const void* weight;
  const void* bias;      // [num_outputs], or null
  const void* residual;  // as out, may be out; or null
  int64_t num_rows;
  PackedShape shape;
  Act act;
  bool float_out;

  int64_t out_size() const { return shape.gated ? shape.num_outputs / 2 : shape.num_outputs; }
};

// A row's bits depend on that row and the weights alone. Inputs are summed in their order.
void cpu_linear(const Linear& linear);

// Rows [first_row, end_row) of the panels [first_panel, end_panel).
struct LinearBlock {
  int64_t first_row, end_row, first_panel, end_panel;
};

// One block, for one instruction set; scratch: [rows of the block, num_inputs] floats, where it has
// no arithmetic on bfloat16.
using LinearKernel = void (*)(const Linear&, const LinearBlock&, float* scratch);

void linear_portable(const Linear& linear, const LinearBlock& block, float* scratch);
void linear_avx2(const Linear& linear, const LinearBlock& block, float* scratch);
void linear_avx512(const Linear& linear, const LinearBlock& block, float* scratch);
void linear_avx512_bf16(const Linear& linear, const LinearBlock& block, float* scratch);

}  // namespace pdrt
