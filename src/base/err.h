/* err.h - how failures travel: a code, which is also the exit status, and one sentence of facts. */
#ifndef BASE_ERR_H
#define BASE_ERR_H

enum errc {
    E_OK = 0,
    E_USAGE = 2,   /* a flag or argument is wrong                  */
    E_FORMAT = 3,  /* an input file is malformed or not supported  */
    E_IO = 4,      /* the operating system refused or failed       */
    E_MEMORY = 5,  /* a budget (weights, KV, buffers) does not fit */
    E_NETWORK = 6,
    E_BUSY = 7,    /* locked by someone else                       */
};

/* Zeroed = no error.  The first error wins; later err_set calls on the same err are ignored. */
struct err {
    enum errc code;
    char msg[480];
};

/* Records code and message unless an error is already there.  Always returns -1, so that
 * `return err_set(err, E_FORMAT, "%s: no tensor '%s'", path, name);` reads well.  Bytes of
 * untrusted names that are not printable ASCII are replaced by '?'.  err may be NULL. */
int err_set(struct err *err, enum errc code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
