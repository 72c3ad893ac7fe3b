/* A wall clock that can jump, for the processes that preload this; the monotonic clock stays true, as on a machine whose
 * clock is set. The offset, a double of seconds, is the content of the file that CHAOS_CLOCK names, mapped, so that
 * a jump reaches running processes at once.
 *
 * The kernel does not know of the jump: what waits until a moment of the wall clock would wait too long or not at all, so
 * such moments are translated back.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile double *offset;
static const double none = 0;

__attribute__((constructor)) static void map_offset(void) {
  offset = &none;
  const char *path = getenv("CHAOS_CLOCK");
  int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
  if (file < 0) return;
  void *mapped = mmap(NULL, sizeof(double), PROT_READ, MAP_SHARED, file, 0);
  close(file);
  if (mapped != MAP_FAILED) offset = mapped;
}

static double jump(void) { return offset ? *offset : 0; }

static void shift(struct timespec *moment, double seconds) {
  long whole = (long)seconds;
  moment->tv_sec += whole;
  moment->tv_nsec += (long)((seconds - whole) * 1e9);
  if (moment->tv_nsec < 0) moment->tv_nsec += 1000000000, moment->tv_sec--;
  if (moment->tv_nsec >= 1000000000) moment->tv_nsec -= 1000000000, moment->tv_sec++;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int failed = real(clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) shift(now, jump());
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec precise;
  (void)zone;
  if (clock_gettime(CLOCK_REALTIME, &precise)) return -1;
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *result) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (result) *result = now.tv_sec;
  return now.tv_sec;
}

/* A moment of the wall clock is billions of seconds; of the monotonic clock, what this machine has been up for. */
static struct timespec untranslated(const struct timespec *moment) {
  struct timespec real = *moment;
  if (real.tv_sec > 1000000000) shift(&real, -jump());
  return real;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
  static int (*real)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  if (!real) { /* by version where there is an older one of the same name, with another layout */
    void *found = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    real = found ? found : dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  }
  struct timespec moment = untranslated(until);
  return real(condition, mutex, &moment);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
  static int (*real)(sem_t *, const struct timespec *);
  if (!real) real = (int (*)(sem_t *, const struct timespec *))dlsym(RTLD_NEXT, "sem_timedwait");
  struct timespec moment = untranslated(until);
  return real(semaphore, &moment);
}

long syscall(long number, ...) {
  static long (*real)(long, ...);
  if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  va_list list;
  va_start(list, number);
  long a = va_arg(list, long), b = va_arg(list, long), c = va_arg(list, long);
  long d = va_arg(list, long), e = va_arg(list, long), f = va_arg(list, long);
  va_end(list);
  struct timespec moment;
  if (number == SYS_futex && d && (b & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && (b & FUTEX_CLOCK_REALTIME)) {
    moment = untranslated((const struct timespec *)d);
    d = (long)&moment;
  }
  return real(number, a, b, c, d, e, f);
}
