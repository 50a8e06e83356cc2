// Sets the wall clock of the process that preloads this ahead by CLOCK_AHEAD_MILLISECONDS, which may be negative. The
// monotonic clock stays as it is. libfaketime cannot be used: redis-server's allocator asks for the time before that
// library is ready.
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long long ahead_nanoseconds(void) {
    const char *ahead = getenv("CLOCK_AHEAD_MILLISECONDS");
    return ahead ? atoll(ahead) * 1000000LL : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        long long nanoseconds = now->tv_sec * 1000000000LL + now->tv_nsec + ahead_nanoseconds();
        now->tv_sec = nanoseconds / 1000000000LL;
        now->tv_nsec = nanoseconds % 1000000000LL;
    }
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    (void)zone;
    struct timespec precise;
    int failed = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *into) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (into) {
        *into = precise.tv_sec;
    }
    return precise.tv_sec;
}
