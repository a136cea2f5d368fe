// Which instruction set the CPU kernels use. Chosen once, from the machine, so that one build runs
// on every x86-64 (and, portable, on any other) machine.
#pragma once

#include <string>

namespace pdrt {

// Each has what those before it have. A kernel without code of its own for one uses the best below.
enum class Isa {
  kPortable,
  kAvx2,        // and FMA
  kAvx512,      // F, BW, DQ, VL
  kAvx512Bf16,  // and VNNI: dot products of bfloat16 and of 8-bit integers
};

Isa cpu_isa();
const char* cpu_isa_name();

// Forces an instruction set, for tests. Throws std::invalid_argument if this machine lacks it.
void set_cpu_isa(const std::string& name);

// True if the extension holds kernels for AVX2 and AVX-512 (the machine may still lack them).
constexpr bool has_x86_kernels() {
#ifdef __x86_64__
  return true;
#else
  return false;
#endif
}

}  // namespace pdrt
