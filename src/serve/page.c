/* page.c - the chat page at "/": files within the program, nothing from elsewhere. */
#include <string.h>

#include "serve/impl.h"
#include "serve/page.h"

void route_page(struct exchange *x, void *app) {
    (void)app;
    for (const struct page_file *p = page_files; p->path; p++) {
        if (strcmp(p->path, http_path(x)))
            continue;
        http_header(x, "Content-Security-Policy",
                    "default-src 'none'; script-src 'self'; style-src 'self'; "
                    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
                    "form-action 'none'; frame-ancestors 'none'");
        http_header(x, "Cache-Control", "no-cache");
        http_header(x, "Referrer-Policy", "no-referrer");
        http_reply_static(x, p->type, p->data, p->n);
        return;
    }
}
