/* What the fault tests put under the program by LD_PRELOAD, so that the program itself needs no switch for them, and
   the small programs beside it. Compiled by tests/faults/shim.rs.

   PORTCULLIS_SHIM_NO_SYNC=FILE   fsync and fdatasync do nothing and say that they did; each adds a byte to FILE
   PORTCULLIS_SHIM_TORN=FILE      while FILE is there, every third write to a segment of the log brings half of its bytes
                                  and fails with EIO; each adds a byte to FILE
   PORTCULLIS_SHIM_CLOCK=FILE     the wall clock is wrong by as many seconds as stand in FILE, read each time        */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Whether the file could be opened, and one byte added to it. */
static int count_in(const char *path, int flags) {
  int file = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | flags, 0600);
  if (file < 0)
    return 0;
  if (syscall(SYS_write, file, ".", 1) != 1)
    abort();
  close(file);
  return 1;
}

static int pretend(int fd, long number) {
  const char *path = getenv("PORTCULLIS_SHIM_NO_SYNC");
  return path != NULL && count_in(path, O_CREAT) ? 0 : (int)syscall(number, fd);
}

static int is_segment(int fd) {
  char link[64], target[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, target, sizeof target - 1);
  if (length < 0)
    return 0;
  target[length] = 0;
  return strstr(target, "/log-") != NULL;
}

ssize_t write(int fd, const void *bytes, size_t count) {
  static unsigned writes;
  const char *path = getenv("PORTCULLIS_SHIM_TORN");
  if (path == NULL || !is_segment(fd) || __atomic_add_fetch(&writes, 1, __ATOMIC_SEQ_CST) % 3 != 0 || !count_in(path, 0))
    return syscall(SYS_write, fd, bytes, count);
  if (syscall(SYS_write, fd, bytes, count / 2) >= 0)
    errno = EIO;
  return -1;
}

int fsync(int fd) { return pretend(fd, SYS_fsync); }
int fdatasync(int fd) { return pretend(fd, SYS_fdatasync); }

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = (int)syscall(SYS_clock_gettime, clock, now);
  const char *path = getenv("PORTCULLIS_SHIM_CLOCK");
  if (failed != 0 || clock != CLOCK_REALTIME || path == NULL)
    return failed;
  char text[32] = {0};
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file >= 0) {
    if (read(file, text, sizeof text - 1) > 0)
      now->tv_sec += strtol(text, NULL, 10);
    close(file);
  }
  return 0;
}
