/* Preloaded into the relay by tests/relay/sickness.rs: writing or flushing the store's files fails as the file named by
 * SICK_ORDERS says: "write 30" or "sync 5", a call and the number of the error. An empty or absent file: all is well. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int refused(int fd, const char *call)
{
    const char *orders = getenv("SICK_ORDERS");
    char link[64], path[4096], text[64];
    if (!orders)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0)
        return 0;
    path[length] = 0;
    if (!strstr(path, "relay.db"))
        return 0;
    int file = syscall(SYS_openat, AT_FDCWD, orders, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    length = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    if (length <= 0)
        return 0;
    text[length] = 0;
    char *number = strchr(text, ' ');
    if (!number || strncmp(text, call, (size_t)(number - text)))
        return 0;
    errno = atoi(number + 1);
    return 1;
}

#define NEXT(type, name, ...) static type (*next)(__VA_ARGS__); if (!next) next = dlsym(RTLD_NEXT, name)

ssize_t write(int fd, const void *data, size_t size)
{
    NEXT(ssize_t, "write", int, const void *, size_t);
    return refused(fd, "write") ? -1 : next(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at)
{
    NEXT(ssize_t, "pwrite", int, const void *, size_t, off_t);
    return refused(fd, "write") ? -1 : next(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at)
{
    NEXT(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    return refused(fd, "write") ? -1 : next(fd, data, size, at);
}

int fsync(int fd)
{
    NEXT(int, "fsync", int);
    return refused(fd, "sync") ? -1 : next(fd);
}

int fdatasync(int fd)
{
    NEXT(int, "fdatasync", int);
    return refused(fd, "sync") ? -1 : next(fd);
}
