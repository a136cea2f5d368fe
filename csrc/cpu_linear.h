// Linear layers on the CPU, over weights that were packed once for all processes.
//
// A packed weight is a row of panels. A panel holds 32 rows of the weight matrix (outputs), so that
// one tile of the product is 32 outputs wide, and lies in memory in the order in which a tile reads
// it:
//
//     float32     [panels][inputs][32]
//     bfloat16    [panels][inputs / 2][32][2]     pairs of inputs, as a dot instruction wants them
//     int8        [panels] of {[inputs / 4][32][4] bytes, then the 32 scales, float32}
//
// What is missing at the ends, of outputs, inputs or a pair, is zero. In a gated weight (gate | up,
// each [size, inputs]) a panel holds 16 rows of gate and the 16 rows of up beside them, so that a
// tile has both factors of its 16 products.
//
// A row of an int8 weight is q scale, with whole q from -127 to 127, the largest of them 127; its
// bytes are 128 + q, since the instruction takes unsigned ones by signed ones. So is a group of 64
// inputs, when it is multiplied, with plain q. A group's sum of products is a whole number, and
// exact; groups are added in float32, in their order.
#pragma once

#include <cstdint>

namespace pdrt {

constexpr int kPanel = 32;  // outputs of a panel

constexpr int kGroup = 64;  // inputs that share a scale, for an int8 weight

// What is missing in the last group of a row is zero.
struct InputGroup {
  int8_t q[kGroup];
  float scale;
  int32_t start;  // -128 times the sum of q: makes up for the 128 in the weight's bytes
};

struct PackedShape {
  int64_t num_outputs;  // of gate and up together
  int64_t num_inputs;
  bool gated;
  bool is_bfloat16;  // of the rows that are packed, the inputs and the results; else float32
  bool is_int8;      // of the panels; else as the rows

  int64_t num_panels() const {
    const int64_t rows = gated ? num_outputs / 2 : num_outputs, width = gated ? 16 : kPanel;
    return (rows + width - 1) / width;
  }
  int64_t num_groups() const { return (num_inputs + kGroup - 1) / kGroup; }
  // Of a panel's words of 4 bytes, [steps][32].
  int64_t num_steps() const {
    if (is_int8) return num_groups() * kGroup / 4;
    return is_bfloat16 ? (num_inputs + 1) / 2 : num_inputs;
  }
  int64_t panel_bytes() const { return (num_steps() + (is_int8 ? 1 : 0)) * kPanel * 4; }
  int64_t num_bytes() const { return num_panels() * panel_bytes(); }
};

// Writes rows [first_row, first_row + num_rows) of the weight matrix, which are contiguous. What no
// row is written to must be zero before. Of an int8 weight, a row that is not all finite is NaN.
void pack_rows(const PackedShape& shape, void* packed, const void* rows, int64_t first_row,
               int64_t num_rows);

// out[i] = row ids[i] of the weight matrix, of an int8 weight q scale, rounded. Throws
// std::invalid_argument, before anything is written, when there is no such row.
void gather_rows(const PackedShape& shape, const void* packed, const int32_t* ids, int64_t num_rows,
                 void* out);

enum class Act { kNone, kSilu, kGeluTanh, kGelu };

// out = residual + act(x weight^T + bias); with a gated weight act(gate) * up. Pointers are to
// float or bfloat16, as the shape says; all rows are contiguous.
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

// A row's bits depend on that row and the weights alone. Inputs are summed in their order. With an
// int8 weight, a row of x that is not all finite gives NaN.
void cpu_linear(const Linear& linear);

// Rows [first_row, end_row) of the panels [first_panel, end_panel).
struct LinearBlock {
  int64_t first_row, end_row, first_panel, end_panel;
};

// One block, for one instruction set; scratch: [rows of the block, num_inputs] floats, where it has
// no arithmetic on bfloat16. With an int8 weight x is [num_rows, num_groups] InputGroup.
using LinearKernel = void (*)(const Linear&, const LinearBlock&, float* scratch);

void linear_portable(const Linear& linear, const LinearBlock& block, float* scratch);
void linear_avx2(const Linear& linear, const LinearBlock& block, float* scratch);
void linear_avx512(const Linear& linear, const LinearBlock& block, float* scratch);
void linear_avx512_bf16(const Linear& linear, const LinearBlock& block, float* scratch);

// Rows [first_row, end_row) of x in groups; the same bits in every instruction set.
using QuantizeKernel = void (*)(const Linear&, int64_t first_row, int64_t end_row,
                                InputGroup* groups);

void quantize_portable(const Linear& linear, int64_t first_row, int64_t end_row,
                       InputGroup* groups);
void quantize_avx2(const Linear& linear, int64_t first_row, int64_t end_row, InputGroup* groups);
void quantize_avx512(const Linear& linear, int64_t first_row, int64_t end_row, InputGroup* groups);

}  // namespace pdrt
