/* Loaded into a program before its C library: a slow disk behind a quick cache. A sync takes FLUSH_MS for every MiB that the program has
 * written since the last one. (bad_disk.c cannot do it for sftp-server, which lets nobody look at its descriptors.)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

static unsigned long long unflushed;

ssize_t write(int fd, const void *data, size_t bytes) {
    ssize_t (*next)(int, const void *, size_t) = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    ssize_t written = next(fd, data, bytes);
    if (fd > 2 && written > 0) unflushed += (unsigned long long)written;
    return written;
}

int fsync(int fd) {
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    const char *flush_ms = getenv("FLUSH_MS");
    usleep(1000 * (unsigned)(flush_ms == NULL ? 0 : atoi(flush_ms)) * (unsigned)(unflushed >> 20));
    unflushed = 0;
    return next(fd);
}
