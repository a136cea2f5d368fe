// Which instruction set the CPU kernels use. Chosen once, from the machine, so that one build runs
// on every x86-64 (and, portable, on any other) machine.
#pragma once

#include <string>

namespace pdrt {

enum class Isa { kPortable, kAvx512 };

Isa cpu_isa();
const char* cpu_isa_name();

// Forces an instruction set, for tests. Throws std::invalid_argument if this machine lacks it.
void set_cpu_isa(const std::string& name);

// True if the extension holds kernels for AVX-512 (the machine may still lack it).
constexpr bool has_avx512_kernels() {
#ifdef __x86_64__
  return true;
#else
  return false;
#endif
}

}  // namespace pdrt
