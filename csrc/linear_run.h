// Which product computes a block, for an instruction set that has nothing for bfloat16 alone.
#pragma once

#include "linear_int8.h"
#include "linear_tile.h"

namespace pdrt {

template <typename V, typename T>
void run_linear_of(const Linear& linear, const LinearBlock& block, float* scratch) {
  linear.shape.is_int8 ? LinearTiles<V, T, Int8Product<V>>::run(linear, block, scratch)
                       : LinearTiles<V, T, WideProduct<V, T>>::run(linear, block, scratch);
}

template <typename V>
void run_linear(const Linear& linear, const LinearBlock& block, float* scratch) {
  linear.shape.is_bfloat16 ? run_linear_of<V, bfloat16>(linear, block, scratch)
                           : run_linear_of<V, float>(linear, block, scratch);
}

}  // namespace pdrt
