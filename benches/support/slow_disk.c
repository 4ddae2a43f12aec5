/*
 * Stands before the system's library for `benches/latency.rs`, whose relay keeps its store in memory: a sync takes 0.25 ms,
 * of which the caller sleeps the most, as it does while a disk works. The rest is waited for awake, so that the time is
 * just that, however late a sleeper is woken.
 */
#include <time.h>

static long since(const struct timespec *start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - start->tv_sec) * 1000000000L + now.tv_nsec - start->tv_nsec;
}

int fdatasync(int file) {
    const struct timespec asleep = {0, 150 * 1000};
    struct timespec start;
    (void)file;
    clock_gettime(CLOCK_MONOTONIC, &start);
    clock_nanosleep(CLOCK_MONOTONIC, 0, &asleep, 0);
    while (since(&start) < 250 * 1000) {
    }
    return 0;
}

int fsync(int file) { return fdatasync(file); }
