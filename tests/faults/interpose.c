/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Put before the C library (LD_PRELOAD): the n-th call of one function on the files of one folder fails once.
 *
 * faults_arm() says which; until then, and for other files, calls are what they are. What was called how often is
 * counted in a shared mapping, since whoever made the calls may be gone. A descriptor is of the folder if it was opened
 * there, or is a copy of such a one.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* In the order of ERRNOS in injection.py. */
enum { OPEN, STAT, FSTAT, READLINK, LSEEK, READ, PREAD, PREADV, MMAP, WRITE, WRITEV, PWRITE, PWRITEV, FALLOCATE,
       FTRUNCATE, COPY_FILE_RANGE, SENDFILE, FSYNC, FLOCK, FCNTL, DUP, FCHMOD, CLOSE, RENAME, UNLINK, N_CALLS };

enum { SHORT = -1, NOTHING = -2, MAX_FDS = 1024 };

static char folder[PATH_MAX];
static size_t folder_nbytes;
static int target = -1, error_number;
static long moment;
static long *counts; /* one for each function; then: how often it failed */
static unsigned char is_ours[MAX_FDS];

static int is_path(const char *path) {
    return counts && path && !strncmp(path, folder, folder_nbytes) &&
           (path[folder_nbytes] == '/' || !path[folder_nbytes]);
}

static int is_fd(int fd) { return counts && fd >= 0 && fd < MAX_FDS && is_ours[fd]; }

static int own(int fd, int yes) {
    if (fd >= 0 && fd < MAX_FDS)
        is_ours[fd] = (unsigned char)yes;
    return fd;
}

/* 0: go on; else SHORT, NOTHING or 1 with errno */
static int fails(int call) {
    long n = __atomic_add_fetch(&counts[call], 1, __ATOMIC_SEQ_CST);
    if (call != target || (error_number == NOTHING ? n < moment : n != moment))
        return 0;
    __atomic_add_fetch(&counts[N_CALLS], 1, __ATOMIC_SEQ_CST);
    if (error_number < 0)
        return error_number;
    errno = error_number;
    return 1;
}

int faults_arm(const char *path, int shared, int call, long when, int what) {
    char link[64], name[PATH_MAX];
    counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
    if (counts == MAP_FAILED)
        return -1;
    folder_nbytes = strlen(path);
    memcpy(folder, path, folder_nbytes + 1);
    target = call, moment = when, error_number = what;
    for (int fd = 0; fd < 3; fd++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, name, sizeof name - 1);
        name[n > 0 ? n : 0] = 0;
        own(fd, is_path(name));
    }
    memset(counts, 0, 4096);
    return 0;
}

#define REAL(type, name, declared)                                                                                     \
    static type(*real) declared;                                                                                       \
    if (!real)                                                                                                         \
    real = (type(*) declared)dlsym(RTLD_NEXT, #name)

#define CALL(type, name, call, condition, declared, passed)                                                            \
    type name declared {                                                                                               \
        REAL(type, name, declared);                                                                                    \
        return condition && fails(call) ? (type)-1 : real passed;                                                      \
    }

/* Those that may do a part of what they are asked for: n bytes. */
#define BYTES(name, call, condition, declared, passed)                                                                 \
    ssize_t name declared {                                                                                            \
        REAL(ssize_t, name, declared);                                                                                 \
        int what = condition ? fails(call) : 0;                                                                        \
        if (what == NOTHING)                                                                                           \
            return 0;                                                                                                  \
        if (what == SHORT)                                                                                             \
            n = (n + 1) / 2;                                                                                           \
        return what == 1 ? -1 : real passed;                                                                           \
    }

BYTES(read, READ, is_fd(fd), (int fd, void *data, size_t n), (fd, data, n))
BYTES(write, WRITE, is_fd(fd), (int fd, const void *data, size_t n), (fd, data, n))
BYTES(pread, PREAD, is_fd(fd), (int fd, void *data, size_t n, off_t at), (fd, data, n, at))
BYTES(pread64, PREAD, is_fd(fd), (int fd, void *data, size_t n, off_t at), (fd, data, n, at))
BYTES(pwrite, PWRITE, is_fd(fd), (int fd, const void *data, size_t n, off_t at), (fd, data, n, at))
BYTES(pwrite64, PWRITE, is_fd(fd), (int fd, const void *data, size_t n, off_t at), (fd, data, n, at))
BYTES(copy_file_range, COPY_FILE_RANGE, (is_fd(in) || is_fd(out)),
      (int in, off_t *from, int out, off_t *to, size_t n, unsigned flags), (in, from, out, to, n, flags))
BYTES(sendfile, SENDFILE, (is_fd(in) || is_fd(out)), (int out, int in, off_t *from, size_t n), (out, in, from, n))
BYTES(sendfile64, SENDFILE, (is_fd(in) || is_fd(out)), (int out, int in, off_t *from, size_t n), (out, in, from, n))

CALL(ssize_t, readv, PREADV, is_fd(fd), (int fd, const struct iovec *list, int n), (fd, list, n))
CALL(ssize_t, writev, WRITEV, is_fd(fd), (int fd, const struct iovec *list, int n), (fd, list, n))
#define VECTOR(name, call)                                                                                             \
    CALL(ssize_t, name, call, is_fd(fd), (int fd, const struct iovec *list, int n, off_t at), (fd, list, n, at))
VECTOR(preadv, PREADV)
VECTOR(preadv64, PREADV)
VECTOR(pwritev, PWRITEV)
VECTOR(pwritev64, PWRITEV)
#define VECTOR2(name, call)                                                                                            \
    CALL(ssize_t, name, call, is_fd(fd), (int fd, const struct iovec *list, int n, off_t at, int flags),               \
         (fd, list, n, at, flags))
VECTOR2(preadv2, PREADV)
VECTOR2(preadv64v2, PREADV)
VECTOR2(pwritev2, PWRITEV)
VECTOR2(pwritev64v2, PWRITEV)

CALL(int, stat, STAT, is_path(path), (const char *path, struct stat *to), (path, to))
CALL(int, stat64, STAT, is_path(path), (const char *path, struct stat64 *to), (path, to))
CALL(int, lstat, STAT, is_path(path), (const char *path, struct stat *to), (path, to))
CALL(int, lstat64, STAT, is_path(path), (const char *path, struct stat64 *to), (path, to))
CALL(int, fstatat, STAT, is_path(path), (int at, const char *path, struct stat *to, int flags), (at, path, to, flags))
CALL(int, fstatat64, STAT, is_path(path), (int at, const char *path, struct stat64 *to, int flags),
     (at, path, to, flags))
CALL(int, fstat, FSTAT, is_fd(fd), (int fd, struct stat *to), (fd, to))
CALL(int, fstat64, FSTAT, is_fd(fd), (int fd, struct stat64 *to), (fd, to))
CALL(ssize_t, readlink, READLINK, is_path(path), (const char *path, char *to, size_t n), (path, to, n))
CALL(ssize_t, readlinkat, READLINK, is_path(path), (int at, const char *path, char *to, size_t n), (at, path, to, n))
CALL(off_t, lseek, LSEEK, is_fd(fd), (int fd, off_t at, int from), (fd, at, from))
CALL(off_t, lseek64, LSEEK, is_fd(fd), (int fd, off_t at, int from), (fd, at, from))
CALL(void *, mmap, MMAP, is_fd(fd), (void *to, size_t n, int may, int how, int fd, off_t at), (to, n, may, how, fd, at))
CALL(void *, mmap64, MMAP, is_fd(fd), (void *to, size_t n, int may, int how, int fd, off_t at),
     (to, n, may, how, fd, at))
CALL(int, fallocate, FALLOCATE, is_fd(fd), (int fd, int how, off_t at, off_t n), (fd, how, at, n))
CALL(int, fallocate64, FALLOCATE, is_fd(fd), (int fd, int how, off_t at, off_t n), (fd, how, at, n))
CALL(int, ftruncate, FTRUNCATE, is_fd(fd), (int fd, off_t n), (fd, n))
CALL(int, ftruncate64, FTRUNCATE, is_fd(fd), (int fd, off_t n), (fd, n))
CALL(int, fsync, FSYNC, is_fd(fd), (int fd), (fd))
CALL(int, fdatasync, FSYNC, is_fd(fd), (int fd), (fd))
CALL(int, flock, FLOCK, is_fd(fd), (int fd, int how), (fd, how))
CALL(int, fchmod, FCHMOD, is_fd(fd), (int fd, mode_t mode), (fd, mode))
CALL(int, rename, RENAME, is_path(from), (const char *from, const char *to), (from, to))
CALL(int, renameat, RENAME, is_path(from), (int a, const char *from, int b, const char *to), (a, from, b, to))
CALL(int, unlink, UNLINK, is_path(path), (const char *path), (path))
CALL(int, unlinkat, UNLINK, is_path(path), (int at, const char *path, int flags), (at, path, flags))

/* These return the error. */
#define RESERVE(name)                                                                                                  \
    int name(int fd, off_t at, off_t n) {                                                                              \
        REAL(int, name, (int, off_t, off_t));                                                                          \
        return is_fd(fd) && fails(FALLOCATE) ? error_number : real(fd, at, n);                                         \
    }
RESERVE(posix_fallocate)
RESERVE(posix_fallocate64)

#define OPENS(name, declared, passed)                                                                                  \
    int name declared {                                                                                                \
        REAL(int, name, declared);                                                                                     \
        va_list list;                                                                                                  \
        va_start(list, flags);                                                                                         \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;                                        \
        va_end(list);                                                                                                  \
        int ours = is_path(path);                                                                                      \
        return ours && fails(OPEN) ? -1 : own(real passed, ours);                                                      \
    }
OPENS(open, (const char *path, int flags, ...), (path, flags, mode))
OPENS(open64, (const char *path, int flags, ...), (path, flags, mode))
OPENS(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode))
OPENS(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode))

#define CONTROLS(name)                                                                                                 \
    int name(int fd, int what, ...) {                                                                                  \
        REAL(int, name, (int, int, ...));                                                                              \
        va_list list;                                                                                                  \
        va_start(list, what);                                                                                          \
        void *more = va_arg(list, void *);                                                                             \
        va_end(list);                                                                                                  \
        if (is_fd(fd) && fails(FCNTL))                                                                                 \
            return -1;                                                                                                 \
        int found = real(fd, what, more);                                                                              \
        return what == F_DUPFD || what == F_DUPFD_CLOEXEC ? own(found, is_fd(fd)) : found;                             \
    }
CONTROLS(fcntl)
CONTROLS(fcntl64)

int dup(int fd) {
    REAL(int, dup, (int));
    return is_fd(fd) && fails(DUP) ? -1 : own(real(fd), is_fd(fd));
}

/* Linux closes the descriptor whatever it says. */
int close(int fd) {
    REAL(int, close, (int));
    int what = is_fd(fd) && fails(CLOSE) ? errno : 0, found = real(fd);
    own(fd, 0);
    errno = what ? what : errno;
    return what ? -1 : found;
}
