/* tiny_model.h - the random model on two threads that the tests of the engine and of its loop
 * share: opened by a group's set-up, closed by tiny_close as its tear-down. */
#ifndef TEST_UNIT_TINY_MODEL_H
#define TEST_UNIT_TINY_MODEL_H

#include "model/model.h"
#include "num/kern.h"

static struct model *m;
static struct pool *pool;

/* 0, or -1 with the reason on stderr. */
static int tiny_open(enum dtype type) {
    struct err err = {0};
    struct cfg c;
    pool = pool_new(2);
    if (kern_init(&err) || cfg_shape(&c, "tiny", &err) ||
        !(m = model_random(&c, 1, &(struct model_opts){.dtype = type, .pool = pool}, &err))) {
        fprintf(stderr, "%s\n", err.msg);
        return -1;
    }
    return 0;
}

static int tiny_close(void **state) {
    (void)state;
    model_close(m);
    pool_free(pool);
    return 0;
}

#endif
