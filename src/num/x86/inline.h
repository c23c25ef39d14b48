/* inline.h - functions that must melt into their caller, because they are given constants or registers. */
#ifndef NUM_X86_INLINE_H
#define NUM_X86_INLINE_H

#define INLINE static inline __attribute__((always_inline))

/* Before a loop whose bounds are constants once inlined: its arrays then live in registers. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#endif
