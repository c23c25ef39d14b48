/* inline.h - functions that must melt into their caller, because they are given constants or
 * registers. */
#ifndef NUM_X86_INLINE_H
#define NUM_X86_INLINE_H

#define INLINE static inline __attribute__((always_inline))

#ifdef __has_feature
#define HAS_FEATURE(x) __has_feature(x)
#else
#define HAS_FEATURE(x) 0
#endif

/* Before a loop whose bounds are constants once inlined: its arrays then live in registers.  A
 * sanitizer, which adds checks to every access, would take minutes to compile the unrolled
 * loops.  clang must be told that all of a loop is meant: it would else unroll by four what it
 * does not know the bounds of yet. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
    HAS_FEATURE(address_sanitizer) || HAS_FEATURE(thread_sanitizer)
#define UNROLL
#define NO_UNROLL /* nor is there a reason for a copy of the code for each number of rows */
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

#endif
