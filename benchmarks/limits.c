/* The machine's limits: what all cores together reach when nothing else stands in the way.
 *
 *     limits SECONDS
 *
 * prints one JSON object: int8 and bf16 dot products (operations a second; null where the CPU has
 * no such instruction) and reading memory (bytes a second). Each is the best of five bursts, every
 * thread pinned to a core of its own. Must not know what is measured against it.
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { BURSTS = 5, REGISTERS = 12, LOOPS = 20000, MOST_THREADS = 1024 };
static const size_t buffer_bytes = (size_t)256 << 20; /* per thread: far more than a cache */

struct thread {
    pthread_t handle;
    int core;
    double (*burst)(struct thread *, double);
    double seconds;
    double rate; /* of the last burst */
    pthread_barrier_t *barrier;
    uint64_t *buffer;
    volatile uint64_t sink; /* keeps the compiler from dropping the loops */
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Twelve independent chains hide the latency of an instruction on every x86 core there is. The
 * empty assembly keeps the compiler from computing the result of the loop beforehand. */
#define DOT_BURST(NAME, TARGET, VECTOR, ZERO, STEP, OPERATIONS)                                    \
    __attribute__((target(TARGET))) static double NAME(struct thread *self, double seconds)        \
    {                                                                                              \
        VECTOR sums[REGISTERS];                                                                    \
        __m512i a = _mm512_set1_epi32((int)self->sink), b = _mm512_set1_epi32(1);                  \
        for (int r = 0; r < REGISTERS; r++)                                                        \
            sums[r] = ZERO;                                                                        \
        double start = now(), end = start, done = 0;                                               \
        while ((end = now()) - start < seconds) {                                                  \
            for (int i = 0; i < LOOPS; i++) {                                                      \
                __asm__ volatile("" : "+v"(a), "+v"(b));                                           \
                _Pragma("GCC unroll 12") for (int r = 0; r < REGISTERS; r++) sums[r] = STEP;       \
            }                                                                                      \
            done += (double)LOOPS * REGISTERS * OPERATIONS;                                        \
        }                                                                                          \
        for (int r = 0; r < REGISTERS; r++)                                                        \
            __asm__ volatile("" : : "v"(sums[r]));                                                 \
        return done / (end - start);                                                               \
    }

/* 64 products of bytes and 64 additions; 32 products of bf16 and 32 additions. */
DOT_BURST(int8_burst, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(),
          _mm512_dpbusd_epi32(sums[r], a, b), 128)
DOT_BURST(bf16_burst, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(),
          _mm512_dpbf16_ps(sums[r], (__m512bh)a, (__m512bh)b), 64)

static double read_burst(struct thread *self, double seconds)
{
    const size_t words = buffer_bytes / sizeof *self->buffer;
    double start = now(), end = start, done = 0;
    uint64_t s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
    do {
        for (size_t i = 0; i < words; i += 8) {
            const uint64_t *p = self->buffer + i;
            s0 += p[0], s1 += p[1], s2 += p[2], s3 += p[3];
            s4 += p[4], s5 += p[5], s6 += p[6], s7 += p[7];
        }
        done += (double)buffer_bytes;
    } while ((end = now()) - start < seconds);
    self->sink += s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7;
    return done / (end - start);
}

static void *run(void *argument)
{
    struct thread *self = argument;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(self->core, &set);
    sched_setaffinity(0, sizeof set, &set);
    if (self->burst == read_burst) {
        self->buffer = malloc(buffer_bytes);
        if (!self->buffer)
            abort();
        memset(self->buffer, 1, buffer_bytes);
    }
    double best_rate = 0;
    for (int i = 0; i < BURSTS; i++) {
        pthread_barrier_wait(self->barrier);
        double rate = self->burst(self, self->seconds);
        if (rate > best_rate)
            best_rate = rate;
    }
    self->rate = best_rate;
    free(self->buffer);
    return NULL;
}

/* The sum over all usable cores. */
static double measure(double (*burst)(struct thread *, double), double seconds)
{
    static struct thread threads[MOST_THREADS];
    cpu_set_t usable;
    sched_getaffinity(0, sizeof usable, &usable);
    pthread_barrier_t barrier;
    int count = 0;
    for (int core = 0; core < CPU_SETSIZE && count < MOST_THREADS; core++)
        if (CPU_ISSET(core, &usable))
            threads[count++] = (struct thread){
                .core = core, .burst = burst, .seconds = seconds, .barrier = &barrier};
    pthread_barrier_init(&barrier, NULL, (unsigned)count);
    for (int i = 0; i < count; i++)
        if (pthread_create(&threads[i].handle, NULL, run, &threads[i]))
            abort();
    double sum = 0;
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i].handle, NULL);
        sum += threads[i].rate;
    }
    pthread_barrier_destroy(&barrier);
    return sum;
}

static void print_rate(const char *name, int known, double (*burst)(struct thread *, double),
                       double seconds)
{
    if (known)
        printf("\"%s\": %.6g, ", name, measure(burst, seconds));
    else
        printf("\"%s\": null, ", name);
}

int main(int argc, char **argv)
{
    double seconds = argc == 2 ? atof(argv[1]) : 0;
    if (seconds <= 0) {
        fprintf(stderr, "usage: limits SECONDS\n");
        return 2;
    }
    putchar('{');
    print_rate("int8_ops_per_s", __builtin_cpu_supports("avx512vnni"), int8_burst, seconds);
    print_rate("bf16_flops_per_s", __builtin_cpu_supports("avx512bf16"), bf16_burst, seconds);
    printf("\"memory_bytes_per_s\": %.6g}\n", measure(read_burst, seconds));
    return 0;
}
