// Linear layers on the CPU, over weights that were packed once for all processes.
//
// A packed weight is a row of panels. A panel holds 32 rows of the weight matrix (outputs), so that
// one tile of the product is 32 outputs wide, and lies in memory in the order in which a tile reads
// it:
//
//     float32     [panels][inputs][32]
//     bfloat16    [panels][inputs / 2][32][2]     pairs of inputs, as a dot instruction wants them
//     int8        [panels] of {[inputs / 4][32][4], scales [32] float, starts [32] int32}
//
// What is missing at the ends, of outputs, inputs or a pair, is zero; int8 has its inputs up to a
// multiple of 16. In a gated weight (gate | up,
// each [size, inputs]) a panel holds 16 rows of gate and the 16 rows of up beside them, so that a
// tile has both factors of its 16 products.
//
// A row of an int8 weight is q scale, with whole q from -127 to 127 and the scale that makes the
// largest of them 127. So is a row of inputs, when it is multiplied; its q go up by 128, since the
// instruction takes unsigned bytes by signed ones. A sum of products of q is exact, and a start is
// what brings it back by 128: -128 times the sum of the weight's q.
#pragma once

#include <cstdint>

namespace pdrt {

constexpr int kPanel = 32;  // outputs of a panel

// Of an int8 weight: so many products of 255 and 127 fit 32 bits.
constexpr int64_t kMostInt8Inputs = INT32_MAX / (255 * 127);

// A row of inputs as bytes 128 + q: inputs up to a multiple of 16, and as many bytes whose first
// four are its scale, a float.
constexpr int64_t kByteStep = 16;
constexpr int64_t byte_row_size(int64_t num_inputs) {
  return (num_inputs + kByteStep - 1) / kByteStep * kByteStep + kByteStep;
}

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
  // Of a panel's words of 4 bytes, [steps][32].
  int64_t num_steps() const {
    if (is_int8) return (byte_row_size(num_inputs) - kByteStep) / 4;
    return is_bfloat16 ? (num_inputs + 1) / 2 : num_inputs;
  }
  int64_t panel_bytes() const { return (num_steps() + (is_int8 ? 2 : 0)) * kPanel * 4; }
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
// no arithmetic on bfloat16. With an int8 weight x is rows of bytes.
using LinearKernel = void (*)(const Linear&, const LinearBlock&, float* scratch);

void linear_portable(const Linear& linear, const LinearBlock& block, float* scratch);
void linear_avx2(const Linear& linear, const LinearBlock& block, float* scratch);
void linear_avx512(const Linear& linear, const LinearBlock& block, float* scratch);
void linear_avx512_bf16(const Linear& linear, const LinearBlock& block, float* scratch);

// Rows [first_row, end_row) of x as rows of bytes; the same bits in every instruction set.
using QuantizeKernel = void (*)(const Linear&, int64_t first_row, int64_t end_row, uint8_t* bytes);

void quantize_portable(const Linear& linear, int64_t first_row, int64_t end_row, uint8_t* bytes);
void quantize_avx2(const Linear& linear, int64_t first_row, int64_t end_row, uint8_t* bytes);
void quantize_avx512(const Linear& linear, int64_t first_row, int64_t end_row, uint8_t* bytes);

}  // namespace pdrt
