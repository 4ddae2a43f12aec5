/* Preloaded into the relay by the power-cut tests: writes down, in one order, what the process does to the files of its
 * state directory and when an HTTP message leaves it.
 *
 *   POWERCUT_ROOT   the state directory, as an absolute path without links; it must exist
 *   POWERCUT_LOG    the file to append the log to, outside that directory
 *
 * A record, in little-endian: u32 kind, u32 length of the bytes, u64 a, u64 b, bytes.
 *
 *   kind        a       b         bytes
 *   1 opened    inode   1 = made  name
 *   2 written   inode   offset    data
 *   3 resized   inode   length
 *   4 sync asked  inode or 0 for the directory, number of the sync
 *   5 sync done   0       number of the sync
 *   6 removed                     name
 *   7 renamed                     old name, zero byte, new name
 *   8 sent      peer's port  0    the first bytes of what was sent
 *
 * A change and its record are one step under the lock, so that the log is the order in which things happened. A sync is not
 * under the lock: other work goes on while the disk is busy, and what is written then is not covered by it.
 *
 * Not seen: changes through mmap (SQLite's -shm file, which no power cut outlives), and calls that are not below. The tests
 * compare the replayed log with the real files, so that a call that is missing here does not pass unnoticed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OPENED = 1, WRITTEN, RESIZED, SYNC_ASKED, SYNC_DONE, REMOVED, RENAMED, SENT };
enum { NO = 0, FILE_BELOW, THE_DIRECTORY };
enum { FDS = 65536, HEAD = 4096 };

/* How long a disk takes to flush, in microseconds: long enough that work queues up meanwhile, as it does in the field. */
enum { FLUSH_TIME = 1000 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char kind_of[FDS];
static char root[PATH_MAX];
static size_t root_length;
static int log_fd = -1;
static uint64_t syncs;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static void give_up(const char *why) {
    fprintf(stderr, "power-cut shim: %s\n", why);
    abort();
}

static ssize_t real_write(int fd, const void *data, size_t length) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(fd, data, length);
}

__attribute__((constructor)) static void start(void) {
    const char *directory = getenv("POWERCUT_ROOT"), *file = getenv("POWERCUT_LOG");
    if (!directory || !file || strlen(directory) >= sizeof root) give_up("POWERCUT_ROOT or POWERCUT_LOG is not set");
    REAL(int, "open", const char *, int, ...);
    strcpy(root, directory);
    root_length = strlen(root);
    log_fd = real(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) give_up("cannot open the log");
}

static void put(const void *data, size_t length) {
    const char *next = data;
    while (length > 0) {
        ssize_t done = real_write(log_fd, next, length);
        if (done < 0 && errno == EINTR) continue;
        if (done <= 0) give_up("cannot write the log");
        next += done;
        length -= (size_t)done;
    }
}

/* The lock is held. Leaves errno alone. */
static void record(uint32_t kind, uint64_t a, uint64_t b, const void *data, size_t length) {
    int error = errno;
    struct { uint32_t kind, length; uint64_t a, b; } head = { kind, (uint32_t)length, a, b };
    put(&head, sizeof head);
    put(data, length);
    errno = error;
}

static int kind(int fd) {
    return fd >= 0 && fd < FDS ? kind_of[fd] : NO;
}

/* The name in the state directory, or null. */
static const char *name_of(const char *path) {
    if (log_fd < 0 || !path || strncmp(path, root, root_length) != 0 || path[root_length] != '/') return NULL;
    return path + root_length + 1;
}

static uint64_t inode(int fd) {
    struct stat found;
    if (fstat(fd, &found) != 0) give_up("cannot ask for an inode");
    return found.st_ino;
}

/* ---- files ---- */

static int opened(int (*open_it)(const char *, int, mode_t), const char *path, int flags, mode_t mode) {
    const char *name = name_of(path);
    if (!name) {
        int fd = open_it(path, flags, mode);
        if (fd >= 0 && fd < FDS) kind_of[fd] = log_fd >= 0 && path && strcmp(path, root) == 0 ? THE_DIRECTORY : NO;
        return fd;
    }
    pthread_mutex_lock(&lock);
    struct stat before;
    int existed = stat(path, &before) == 0;
    int fd = open_it(path, flags, mode);
    if (fd >= 0) {
        if (fd >= FDS) give_up("too many open files");
        if (flags & O_APPEND) give_up("appending is not modelled");
        kind_of[fd] = FILE_BELOW;
        record(OPENED, inode(fd), !existed, name, strlen(name));
        if (existed && (flags & O_TRUNC)) record(RESIZED, inode(fd), 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

static int plain_open(const char *path, int flags, mode_t mode) {
    REAL(int, "open64", const char *, int, ...);
    return real(path, flags, mode);
}

#define MODE \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    }

int open(const char *path, int flags, ...) {
    MODE
    return opened(plain_open, path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE
    return opened(plain_open, path, flags, mode);
}

static int plain_openat(int directory, const char *path, int flags, mode_t mode) {
    REAL(int, "openat64", int, const char *, int, ...);
    int fd = real(directory, path, flags, mode);
    if (fd >= 0 && fd < FDS) kind_of[fd] = NO;
    return fd;
}

int openat(int directory, const char *path, int flags, ...) {
    MODE
    return path[0] == '/' ? opened(plain_open, path, flags, mode) : plain_openat(directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...) {
    MODE
    return path[0] == '/' ? opened(plain_open, path, flags, mode) : plain_openat(directory, path, flags, mode);
}

int close(int fd) {
    REAL(int, "close", int);
    if (fd >= 0 && fd < FDS) kind_of[fd] = NO;
    return real(fd);
}

static int resized(int fd, off64_t length) {
    REAL(int, "ftruncate64", int, off64_t);
    if (kind(fd) != FILE_BELOW) return real(fd, length);
    pthread_mutex_lock(&lock);
    int done = real(fd, length);
    if (done == 0) record(RESIZED, inode(fd), (uint64_t)length, NULL, 0);
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t length) {
    return resized(fd, length);
}

int ftruncate64(int fd, off64_t length) {
    return resized(fd, length);
}

static int synced(int (*sync_it)(int), int fd) {
    if (kind(fd) == NO) return sync_it(fd);
    pthread_mutex_lock(&lock);
    uint64_t number = ++syncs;
    record(SYNC_ASKED, kind(fd) == THE_DIRECTORY ? 0 : inode(fd), number, NULL, 0);
    pthread_mutex_unlock(&lock);
    usleep(FLUSH_TIME);
    int done = sync_it(fd);
    if (done == 0) {
        pthread_mutex_lock(&lock);
        record(SYNC_DONE, 0, number, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return done;
}

static int plain_fsync(int fd) {
    REAL(int, "fsync", int);
    return real(fd);
}

static int plain_fdatasync(int fd) {
    REAL(int, "fdatasync", int);
    return real(fd);
}

int fsync(int fd) {
    return synced(plain_fsync, fd);
}

/* Keeps the data and the length, which is all of a file that is modelled. */
int fdatasync(int fd) {
    return synced(plain_fdatasync, fd);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    const char *name = name_of(path);
    if (!name) return real(path);
    pthread_mutex_lock(&lock);
    int done = real(path);
    if (done == 0) record(REMOVED, 0, 0, name, strlen(name));
    pthread_mutex_unlock(&lock);
    return done;
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    const char *old = name_of(from), *new = name_of(to);
    if (!old && !new) return real(from, to);
    if (!old || !new) give_up("renaming into or out of the directory is not modelled");
    char names[2 * PATH_MAX];
    int length = snprintf(names, sizeof names, "%s%c%s", old, 0, new);
    pthread_mutex_lock(&lock);
    int done = real(from, to);
    if (done == 0) record(RENAMED, 0, 0, names, (size_t)length);
    pthread_mutex_unlock(&lock);
    return done;
}

static ssize_t positioned(int fd, const void *data, size_t length, off64_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    if (kind(fd) != FILE_BELOW) return real(fd, data, length, offset);
    pthread_mutex_lock(&lock);
    ssize_t done = real(fd, data, length, offset);
    if (done > 0) record(WRITTEN, inode(fd), (uint64_t)offset, data, (size_t)done);
    pthread_mutex_unlock(&lock);
    return done;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    return positioned(fd, data, length, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    return positioned(fd, data, length, offset);
}

static ssize_t pieces_at(int fd, const struct iovec *pieces, int count, off64_t offset) {
    ssize_t all = 0;
    for (int i = 0; i < count; i++) {
        ssize_t done = positioned(fd, pieces[i].iov_base, pieces[i].iov_len, offset + all);
        if (done < 0) return all ? all : done;
        all += done;
        if ((size_t)done < pieces[i].iov_len) break;
    }
    return all;
}

ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset) {
    REAL(ssize_t, "pwritev", int, const struct iovec *, int, off_t);
    return kind(fd) == FILE_BELOW ? pieces_at(fd, pieces, count, offset) : real(fd, pieces, count, offset);
}

ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t offset) {
    REAL(ssize_t, "pwritev64", int, const struct iovec *, int, off64_t);
    return kind(fd) == FILE_BELOW ? pieces_at(fd, pieces, count, offset) : real(fd, pieces, count, offset);
}

/* ---- the network ---- */

/* The first bytes of what is sent, if they start an HTTP message. */
static size_t http_head(const struct iovec *pieces, size_t count, char *head) {
    size_t length = 0;
    for (size_t i = 0; i < count && length < HEAD; i++) {
        size_t more = pieces[i].iov_len < HEAD - length ? pieces[i].iov_len : HEAD - length;
        memcpy(head + length, pieces[i].iov_base, more);
        length += more;
    }
    int starts = length >= 9 && (memcmp(head, "HTTP/1.1 ", 9) == 0 || memcmp(head, "POST ", 5) == 0);
    return starts ? length : 0;
}

/* The lock is held, and was before the bytes left: nothing that happens after them comes before them in the log. */
static void record_sent(int fd, const char *head, size_t length) {
    union { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_storage room; } peer;
    socklen_t size = sizeof peer;
    int error = errno;
    if (getpeername(fd, &peer.any, &size) == 0 && peer.any.sa_family == AF_INET)
        record(SENT, ntohs(peer.v4.sin_port), 0, head, length);
    errno = error;
}

/* `call` sends the pieces and sets `done` to what was sent. */
#define SENDING(fd, pieces, count, call) \
    char head[HEAD]; \
    ssize_t done; \
    size_t length = log_fd < 0 ? 0 : http_head(pieces, count, head); \
    if (length == 0) { \
        done = call; \
    } else { \
        pthread_mutex_lock(&lock); \
        done = call; \
        if (done > 0) record_sent(fd, head, length); \
        pthread_mutex_unlock(&lock); \
    } \
    return done

ssize_t write(int fd, const void *data, size_t length_asked) {
    if (kind(fd) == FILE_BELOW) {
        pthread_mutex_lock(&lock);
        off64_t offset = lseek64(fd, 0, SEEK_CUR);
        ssize_t written = real_write(fd, data, length_asked);
        if (written > 0) record(WRITTEN, inode(fd), (uint64_t)offset, data, (size_t)written);
        pthread_mutex_unlock(&lock);
        return written;
    }
    struct iovec piece = { (void *)data, length_asked };
    SENDING(fd, &piece, 1, real_write(fd, data, length_asked));
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (kind(fd) == FILE_BELOW) {
        ssize_t all = 0;
        for (int i = 0; i < count; i++) {
            ssize_t written = write(fd, pieces[i].iov_base, pieces[i].iov_len);
            if (written < 0) return all ? all : written;
            all += written;
            if ((size_t)written < pieces[i].iov_len) break;
        }
        return all;
    }
    SENDING(fd, pieces, (size_t)count, real(fd, pieces, count));
}

ssize_t send(int fd, const void *data, size_t length_asked, int flags) {
    REAL(ssize_t, "send", int, const void *, size_t, int);
    struct iovec piece = { (void *)data, length_asked };
    SENDING(fd, &piece, 1, real(fd, data, length_asked, flags));
}

ssize_t sendto(int fd, const void *data, size_t length_asked, int flags, const struct sockaddr *to, socklen_t to_length) {
    REAL(ssize_t, "sendto", int, const void *, size_t, int, const struct sockaddr *, socklen_t);
    struct iovec piece = { (void *)data, length_asked };
    SENDING(fd, &piece, 1, real(fd, data, length_asked, flags, to, to_length));
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    REAL(ssize_t, "sendmsg", int, const struct msghdr *, int);
    SENDING(fd, message->msg_iov, message->msg_iovlen, real(fd, message, flags));
}
