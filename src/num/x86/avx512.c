/* avx512.c */
