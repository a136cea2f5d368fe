// Everything between this and simd_avx512_end.h is compiled for AVX-512. Standard headers must come
// before it: an inline function of theirs compiled here could be the one that the linker keeps for
// machines without AVX-512.
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), \
                             apply_to = function)
#else
// GCC 12 takes the "undefined" operands inside its own intrinsics for a mistake.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#endif
