/* page.h - the files of the chat page (page/), put into the program by embed.py at build time. */
#ifndef SERVE_PAGE_H
#define SERVE_PAGE_H

#include <stddef.h>

struct page_file {
    const char *path, *type; /* path NULL: the end */
    const unsigned char *data;
    size_t n;
};
extern const struct page_file page_files[];
extern const int page_count;

#endif
