// Functions between PDRT_BEGIN_AVX512 and PDRT_END_AVX512 are compiled for AVX-512, whatever the
// rest of the build is for. Standard headers must be included before: an inline function of theirs
// compiled there could be the copy that the linker keeps, also for machines without AVX-512.
#pragma once

// clang-format off
#ifdef __clang__

#define PDRT_BEGIN_AVX512                                                       \
  _Pragma("clang attribute push(__attribute__((target(                          \
          \"avx512f,avx512bw,avx512dq,avx512vl,fma\"))), apply_to = function)")
#define PDRT_END_AVX512 _Pragma("clang attribute pop")

#else

// GCC 12 takes the "undefined" operands inside its own intrinsics for a mistake.
#define PDRT_BEGIN_AVX512                                       \
  _Pragma("GCC diagnostic push")                                \
  _Pragma("GCC diagnostic ignored \"-Wuninitialized\"")         \
  _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"")   \
  _Pragma("GCC push_options")                                   \
  _Pragma("GCC target(\"avx512f,avx512bw,avx512dq,avx512vl,fma\")")
#define PDRT_END_AVX512      \
  _Pragma("GCC pop_options") \
  _Pragma("GCC diagnostic pop")

#endif
// clang-format on
