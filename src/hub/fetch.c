/* fetch.c - see fetch.h.
 *
 * Invariants: (1) no more bytes are taken than were announced; (2) bytes are written where the
 * server says they belong, or from the beginning; (3) nothing is decoded on the way (no
 * Content-Encoding), so that what arrives is what is hashed. */
#include "hub/fetch.h"

#include <curl/curl.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"

enum { TRIES = 5 };

struct fetch {
    CURL *curl;
    const struct hub *h;
    char why[CURL_ERROR_SIZE];
};

struct sink { /* one transfer: either text or fd */
    struct fetch *f;
    struct buf *text;
    size_t max;
    char **next;
    int fd;
    int64_t at, size;
    bool too_much, begun;
    int write_errno;
    struct progress *p;
};

static bool is_local(const char *url) {
    static const char *const local[] = {"http://127.0.0.1", "http://localhost", "http://[::1]"};
    for (size_t i = 0; i < sizeof local / sizeof local[0]; i++) {
        size_t n = strlen(local[i]);
        if (!strncmp(url, local[i], n) && strchr(":/", url[n])) /* '\0' too */
            return true;
    }
    return false;
}

struct fetch *fetch_open(const struct hub *h, struct err *err) {
    static bool ready;
    if (!ready && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
        err_set(err, E_NETWORK, "libcurl cannot start");
        return NULL;
    }
    ready = true;
    struct fetch *f = mem_new(sizeof *f);
    f->h = h;
    if (!(f->curl = curl_easy_init())) {
        free(f);
        err_set(err, E_MEMORY, "libcurl cannot start");
        return NULL;
    }
    bool plain = !strncmp(h->endpoint, "http://", strlen("http://"));
    const char *schemes = plain ? "http,https" : "https";
    CURL *c = f->curl;
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, f->why);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, schemes);
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, schemes);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, 5L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, 20L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, 256L);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, 30L);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "pumice");
    if (h->token && (!plain || is_local(h->endpoint))) {
        curl_easy_setopt(c, CURLOPT_HTTPAUTH,
                         CURLAUTH_BEARER); /* libcurl drops it for other hosts */
        curl_easy_setopt(c, CURLOPT_XOAUTH2_BEARER, h->token);
    } else if (h->token)
        log_warn("the token is not sent to %s, which is not encrypted", h->endpoint);
    return f;
}

void fetch_close(struct fetch *f) {
    if (!f)
        return;
    curl_easy_cleanup(f->curl);
    free(f);
}

static long status_of(const struct fetch *f) {
    long status = 0;
    curl_easy_getinfo(f->curl, CURLINFO_RESPONSE_CODE, &status);
    return status;
}

/* What is not a success is not written anywhere. */
static size_t take(char *data, size_t one, size_t n, void *ud) {
    struct sink *s = ud;
    (void)one;
    long status = status_of(s->f);
    if (status != 200 && status != 206)
        return n;
    if (s->text) {
        if (n > s->max - s->text->len) {
            s->too_much = true;
            return 0;
        }
        buf_add(s->text, data, n);
        return n;
    }
    if (!s->begun && status == 200 && s->at > 0) { /* it cannot continue: all of it comes again */
        s->at = 0;
        if (ftruncate(s->fd, 0) != 0) {
            s->write_errno = errno;
            return 0;
        }
    }
    s->begun = true;
    if ((int64_t)n > s->size - s->at) {
        s->too_much = true;
        return 0;
    }
    for (size_t done = 0; done < n;) {
        ssize_t w = pwrite(s->fd, data + done, n - done, (off_t)s->at);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0) {
            s->write_errno = w ? errno : ENOSPC;
            return 0;
        }
        done += (size_t)w;
        s->at += w;
    }
    if (s->p)
        progress_update(s->p, s->at);
    return n;
}

/* Link: <https://.../api/...?cursor=...>; rel="next" - only what lies below the endpoint counts. */
static size_t header(char *data, size_t one, size_t n, void *ud) {
    struct sink *s = ud;
    (void)one;
    if (!s->next || n < 6 || strncasecmp(data, "link:", 5) != 0)
        return n;
    const char *end = memchr(data, '>', n), *from = memchr(data, '<', n);
    size_t len = strlen(s->f->h->endpoint);
    if (from && end && end - from > (ptrdiff_t)len &&
        memmem(end, (size_t)(data + n - end), "next", 4) &&
        !strncmp(from + 1, s->f->h->endpoint, len)) {
        free(*s->next);
        *s->next = mem_dup(from + 1 + len, (size_t)(end - from - 1) - len + 1);
        (*s->next)[(size_t)(end - from - 1) - len] = 0;
    }
    return n;
}

/* One attempt.  0 done, 1 may be tried again (why is in f->why or the status), -1 err is set. */
static int attempt(struct fetch *f, const char *path, struct sink *s, struct err *err) {
    struct buf url = {0};
    CURL *c = f->curl;
    s->f = f;
    buf_printf(&url, "%s%s", f->h->endpoint, path);
    curl_easy_setopt(c, CURLOPT_URL, buf_str(&url));
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, s);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, s);
    char range[32] = "";
    if (s->at > 0)
        snprintf(range, sizeof range, "%lld-", (long long)s->at);
    curl_easy_setopt(c, CURLOPT_RANGE, range[0] ? range : NULL);
    f->why[0] = 0;
    CURLcode rc = curl_easy_perform(c);
    long status = status_of(f);
    int result = -1;
    if (s->write_errno)
        err_set(err, E_IO, "%s: cannot write: %s", path, strerror(s->write_errno));
    else if (s->too_much)
        err_set(err, E_NETWORK, "%s: more bytes than the %lld announced", buf_str(&url),
                s->text ? (long long)s->max : (long long)s->size);
    else if (rc == CURLE_OK && (status == 200 || status == 206))
        result = 0;
    else if (status == 401 || status == 403)
        err_set(err, E_NETWORK, "%s: HTTP %ld: %s", buf_str(&url), status,
                f->h->token ? "the token does not open it" : "it needs a token (HF_TOKEN)");
    else if (status == 404 ||
             (status >= 400 && status < 500 && status != 408 && status != 429 && status != 416))
        err_set(err, E_NETWORK, "%s: HTTP %ld%s", buf_str(&url), status,
                status == 404 ? ": the hub does not have it" : "");
    else if (rc == CURLE_UNSUPPORTED_PROTOCOL || rc == CURLE_TOO_MANY_REDIRECTS ||
             rc == CURLE_PEER_FAILED_VERIFICATION || rc == CURLE_URL_MALFORMAT)
        err_set(err, E_NETWORK, "%s: %s", buf_str(&url),
                f->why[0] ? f->why : curl_easy_strerror(rc));
    else {
        if (!f->why[0] && rc == CURLE_OK)
            snprintf(f->why, sizeof f->why, "HTTP %ld", status);
        else if (!f->why[0])
            snprintf(f->why, sizeof f->why, "%s", curl_easy_strerror(rc));
        result = 1;
    }
    buf_free(&url);
    return result;
}

static int offline(const struct fetch *f, const char *path, struct err *err) {
    return f->h->offline ? err_set(err, E_NETWORK, "%s%s: not asked for: HF_HUB_OFFLINE is set",
                                   f->h->endpoint, path)
                         : 0;
}

static int gave_up(const struct fetch *f, const char *path, struct err *err) {
    return err_set(err, E_NETWORK, "%s%s: %s", f->h->endpoint, path, f->why);
}

int fetch_text(struct fetch *f, const char *path, size_t max, struct buf *out, char **next,
               struct err *err) {
    if (offline(f, path, err))
        return -1;
    for (int i = 0;; i++) {
        struct buf text = {0};
        struct sink s = {.text = &text, .max = max, .next = next};
        if (next)
            *next = NULL;
        int rc = attempt(f, path, &s, err);
        if (rc == 0)
            buf_add(out, text.data, text.len);
        buf_free(&text);
        if (rc <= 0)
            return rc;
        if (i + 1 == TRIES)
            return gave_up(f, path, err);
        sleep(1u << i);
    }
}

int fetch_file(struct fetch *f, const char *path, int fd, int64_t *have, int64_t size,
               struct progress *p, struct err *err) {
    if (offline(f, path, err))
        return -1;
    for (int i = 0; *have < size; i++) {
        struct sink s = {.fd = fd, .at = *have, .size = size, .p = p};
        int rc = attempt(f, path, &s, err);
        bool further = s.begun && s.at > *have;
        *have = s.at;
        if (rc < 0)
            return -1;
        if (*have == size)
            break;
        if (rc == 0 && !further)
            return err_set(err, E_NETWORK, "%s%s: ends after %lld of %lld bytes", f->h->endpoint,
                           path, (long long)*have, (long long)size);
        if (further)
            i = -1; /* progress: the patience starts anew */
        else if (i + 1 == TRIES)
            return gave_up(f, path, err);
        if (rc == 1)
            sleep(i < 0 ? 1 : 1u << i);
    }
    return 0;
}
