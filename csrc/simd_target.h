// Functions between PDRT_BEGIN_AVX512 and PDRT_END_AVX512 are compiled for AVX-512, whatever the
// rest of the build is for; the other pairs are for what they name. Standard headers must be
// included before: an inline function of theirs compiled there could be the copy that the linker
// keeps, also for machines without AVX-512.
#pragma once

// clang-format off
#define PDRT_PRAGMA(text) _Pragma(#text)

#ifdef __clang__

#define PDRT_BEGIN_TARGET(isa)                                                                  \
  PDRT_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define PDRT_END_TARGET _Pragma("clang attribute pop")

#else

// GCC 12 takes the "undefined" operands inside its own intrinsics for a mistake.
#define PDRT_BEGIN_TARGET(isa)                                  \
  _Pragma("GCC diagnostic push")                                \
  _Pragma("GCC diagnostic ignored \"-Wuninitialized\"")         \
  _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"")   \
  _Pragma("GCC push_options")                                   \
  PDRT_PRAGMA(GCC target(isa))
#define PDRT_END_TARGET      \
  _Pragma("GCC pop_options") \
  _Pragma("GCC diagnostic pop")

#endif

#define PDRT_BEGIN_AVX2 PDRT_BEGIN_TARGET("avx2,fma")
#define PDRT_END_AVX2 PDRT_END_TARGET
#define PDRT_BEGIN_AVX512 PDRT_BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,fma")
#define PDRT_END_AVX512 PDRT_END_TARGET
#define PDRT_BEGIN_AVX512_BF16 \
  PDRT_BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,fma,avx512bf16,avx512vnni")
#define PDRT_END_AVX512_BF16 PDRT_END_TARGET
// clang-format on
