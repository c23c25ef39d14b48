/* access.c - see access.h. */
#include "serve/access.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/file.h"
#include "base/mem.h"

struct keys {
    unsigned char (*hash)[SHA256_DIGEST_LENGTH];
    int n;
};

struct keys *keys_new(void) {
    return mem_new(sizeof(struct keys));
}

void keys_free(struct keys *k) {
    if (k)
        free(k->hash);
    free(k);
}

int keys_count(const struct keys *k) {
    return k->n;
}

int keys_add(struct keys *k, const char *key, struct err *err) {
    if (!key[0])
        return err_set(err, E_USAGE, "an API key is empty");
    k->hash = mem_resize(k->hash, (size_t)k->n + 1, sizeof *k->hash);
    SHA256((const unsigned char *)key, strlen(key), k->hash[k->n++]);
    return 0;
}

int keys_file(struct keys *k, const char *path, struct err *err) {
    struct buf b = {0};
    int before = k->n, rc = file_read(path, 1 << 20, &b, err);
    char *save = NULL, *text = rc ? NULL : (char *)buf_str(&b);
    for (char *line = text ? strtok_r(text, "\r\n", &save) : NULL; line && !rc;
         line = strtok_r(NULL, "\r\n", &save))
        if (line[0] != '#')
            rc = keys_add(k, line, err);
    if (!rc && k->n == before)
        rc = err_set(err, E_USAGE, "%s: holds no API key", path);
    if (b.data)
        OPENSSL_cleanse(b.data, b.len);
    buf_free(&b);
    return rc;
}

static uint64_t number_of(const unsigned char *hash) {
    uint64_t v;
    memcpy(&v, hash, sizeof v);
    return v ? v : 1;
}

bool keys_match(const struct keys *k, const char *key, uint64_t *tenant) {
    unsigned char hash[SHA256_DIGEST_LENGTH];
    int same = 0;
    SHA256((const unsigned char *)key, strlen(key), hash);
    for (int i = 0; i < k->n; i++)
        same |= CRYPTO_memcmp(hash, k->hash[i], sizeof hash) == 0;
    *tenant = number_of(hash);
    return same;
}

uint64_t tenant_salt(uint64_t tenant, const char *salt) {
    unsigned char hash[SHA256_DIGEST_LENGTH];
    struct buf b = {0};
    if (!salt)
        return tenant;
    buf_add(&b, &tenant, sizeof tenant);
    buf_adds(&b, salt);
    SHA256((const unsigned char *)b.data, b.len, hash);
    buf_free(&b);
    return number_of(hash);
}

/* The part of "name:port" or "[addr]:port" in front of the port. */
static void host_name(const char *host, char *out, size_t size) {
    size_t n = host[0] == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":/");
    n = n < size - 1 ? n : size - 1;
    memcpy(out, host, n);
    out[n] = '\0';
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && !strcasecmp(s + n - k, end);
}

bool host_is_local(const char *host) {
    char name[256], own[256] = "";
    host_name(host, name, sizeof name);
    gethostname(own, sizeof own - 1);
    bool v4 = !strncmp(name, "127.", 4) && name[strspn(name, "0123456789.")] == '\0';
    return v4 || !strcmp(name, "[::1]") || !strcasecmp(name, "localhost") ||
           ends_with(name, ".localhost") || (own[0] && !strcasecmp(name, own));
}

/* "http://host:port" -> its host and port, or NULL ("null", "file://"). */
static const char *authority(const char *origin) {
    const char *p = strstr(origin, "://");
    return p && p[3] ? p + 3 : NULL;
}

bool origin_allowed(const char *origin, const char *host, const char *allowed) {
    const char *at = authority(origin);
    if (at && host && !strcasecmp(at, host))
        return true;
    for (const char *p = allowed; p && *p;) {
        size_t n = strcspn(p, ",");
        if ((n == 1 && *p == '*') || (n == strlen(origin) && !strncasecmp(p, origin, n)))
            return true;
        if (n == 9 && !strncmp(p, "localhost", n) && at && host_is_local(at))
            return true;
        p += n;
        p += strspn(p, ", ");
    }
    return false;
}
