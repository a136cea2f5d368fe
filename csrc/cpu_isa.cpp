#include "cpu_isa.h"

#include <atomic>

#include "check.h"

namespace pdrt {
namespace {

bool machine_has_avx512() {
#ifdef __x86_64__
  // These also ask whether the operating system keeps the wide registers.
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

std::atomic<Isa> chosen{machine_has_avx512() ? Isa::kAvx512 : Isa::kPortable};

}  // namespace

Isa cpu_isa() { return chosen.load(std::memory_order_relaxed); }

const char* cpu_isa_name() { return cpu_isa() == Isa::kAvx512 ? "avx512" : "portable"; }

void set_cpu_isa(const std::string& name) {
  PDRT_CHECK(name == "avx512" || name == "portable", "isa is '", name,
             "'; give avx512 or portable");
  PDRT_CHECK(name != "avx512" || machine_has_avx512(), "isa is 'avx512', which this machine lacks");
  chosen = name == "avx512" ? Isa::kAvx512 : Isa::kPortable;
}

}  // namespace pdrt
