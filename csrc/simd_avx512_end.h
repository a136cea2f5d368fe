// Ends what simd_avx512_begin.h began.
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
