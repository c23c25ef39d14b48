/* avx2.c */
