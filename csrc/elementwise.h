// The operations of a decoder layer between its matrix products. Each works on one row (token) at a
// time in float32, so a row's bits do not depend on the rows around it.
#pragma once

#include <cstdint>

namespace pdrt {

// Pointers are to float or bfloat16; all rows are contiguous.
struct Norm {
  void* out;           // [num_rows, size]
  const void* x;       // [num_rows, size]
  void* residual;      // [num_rows, size], or null: gets x added, and its sum is what is normed
  const void* weight;  // [size]
  const void* bias;    // [size]; null for rms_norm
  int64_t num_rows, size;
  float eps;
  float weight_offset;  // rms_norm multiplies with weight_offset + weight
};

struct Activation {
  void* out;      // [num_rows, size]
  const void* x;  // [num_rows, size]; for those that multiply [num_rows, 2 * size], gate first
  int64_t num_rows, size;
};

// Strides are in elements.
struct Rope {
  void* qkv;  // [num_tokens, num_heads + 2 * num_kv_heads, head_dim]: q | k | v; q is rotated here
  void* kv;   // this layer's K in page 0: [num_kv_heads, page_size, head_dim]
  const int32_t* slot_mapping;  // [num_tokens]: page * page_size + offset; negative: not written
  const int32_t* positions;     // [num_tokens]
  const float* cos_sin;         // [max_len, rotary_dim]: rotary_dim / 2 cosines, then as many sines
  const void* q_norm;  // [head_dim]: weight of the norm of each head of q; null: none is normed
  const void* k_norm;  // [head_dim]: and of k; both are null, or neither
  float norm_eps;
  int64_t num_tokens, num_heads, num_kv_heads, head_dim, rotary_dim, max_len;
  int64_t num_pages, page_size;
  int64_t qkv_stride;    // token to token
  int64_t page_stride;   // page to page
  int64_t value_offset;  // K to V of the same page
  int64_t head_stride;   // KV head to KV head
};

// One row of each operation, for one instruction set and one dtype.
struct Elementwise {
  void (*rms_norm)(const Norm&, int64_t row);
  void (*layer_norm)(const Norm&, int64_t row);
  void (*silu_and_mul)(const Activation&, int64_t row);
  void (*gelu)(const Activation&, int64_t row);
  void (*gelu_tanh)(const Activation&, int64_t row);
  void (*gelu_tanh_and_mul)(const Activation&, int64_t row);
  void (*rope)(const Rope&, int64_t token);
};

const Elementwise& elementwise_avx512(bool is_bfloat16);
const Elementwise& elementwise_avx2(bool is_bfloat16);
const Elementwise& elementwise_portable(bool is_bfloat16);

// All rows, shared among the threads where that pays.
void cpu_rms_norm(const Norm& norm, bool is_bfloat16);
void cpu_layer_norm(const Norm& norm, bool is_bfloat16);
void cpu_silu_and_mul(const Activation& activation, bool is_bfloat16);
void cpu_gelu(const Activation& activation, bool is_bfloat16);
void cpu_gelu_tanh(const Activation& activation, bool is_bfloat16);
void cpu_gelu_tanh_and_mul(const Activation& activation, bool is_bfloat16);

// Norms q and k if asked to, rotates q in place, and writes rotated k and v to their pages. Throws
// std::invalid_argument, before anything is written, when a position or slot is out of range.
void cpu_rope_kv_write(const Rope& rope, bool is_bfloat16);

}  // namespace pdrt
