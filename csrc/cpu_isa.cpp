#include "cpu_isa.h"

#include <atomic>
#include <iterator>

#include "check.h"

namespace pdrt {
namespace {

constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512_bf16"};

Isa best_of_machine() {
#ifdef __x86_64__
  // These also ask whether the operating system keeps the wide registers.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (!avx2) return Isa::kPortable;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (!avx512) return Isa::kAvx2;
  const bool dots = __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
  return dots ? Isa::kAvx512Bf16 : Isa::kAvx512;
#else
  return Isa::kPortable;
#endif
}

std::atomic<Isa> chosen{best_of_machine()};

}  // namespace

Isa cpu_isa() { return chosen.load(std::memory_order_relaxed); }

const char* cpu_isa_name() { return kNames[static_cast<int>(cpu_isa())]; }

void set_cpu_isa(const std::string& name) {
  for (int i = 0; i < static_cast<int>(std::size(kNames)); ++i) {
    if (name != kNames[i]) continue;
    const Isa isa = static_cast<Isa>(i);
    PDRT_CHECK(isa <= best_of_machine(), "isa is '", name, "', which this machine lacks");
    chosen = isa;
    return;
  }
  PDRT_CHECK(false, "isa is '", name, "'; give portable, avx2, avx512 or avx512_bf16");
}

}  // namespace pdrt
