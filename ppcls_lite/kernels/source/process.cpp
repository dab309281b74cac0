// What the kernels set in the process that loads them, and how many threads they use there.

#include "vectors.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#if defined(_OPENMP) && defined(__linux__)
#include <omp.h>
#include <sched.h>
#endif
#if defined(TILE_PRODUCTS)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(TILE_PRODUCTS)
// Linux gives a process the tile registers when it has asked for them (system/machine.py asks
// first, whether it gets them).
static const long tiles_given = syscall(SYS_arch_prctl, 0x1023, 18);
#endif

extern "C" {

// The most threads of a kernel, which Python sets when it loads the library; and how many
// multiplications and additions make one more worth waking up.
int kernels_threads = 1;
int64_t kernels_worth = 4 << 20;

void use_threads(int count) { kernels_threads = count; }

// What this library was compiled for: see elements.h.
int multiplies_bf16() {
#if defined(BF16_PRODUCTS)
    return 1;
#else
    return 0;
#endif
}

// Give each thread but the caller's a core of its own; returns how many got one. Else a thread that
// has slept is woken on the core of the one that wakes it, and both may share it for a whole run.
// The calling thread stays free, as processes that it starts have the cores that it has. Nothing is
// done where the threads are not as many as the cores of this process, which others then use too,
// or where OpenMP was told how to bind them.
int bind_threads() {
    int bound = 0;
#if defined(_OPENMP) && defined(__linux__)
    cpu_set_t cores;
    if (std::getenv("KMP_AFFINITY") || std::getenv("OMP_PROC_BIND")) return 0;
    if (sched_getaffinity(0, sizeof cores, &cores) || CPU_COUNT(&cores) != kernels_threads) return 0;
#pragma omp parallel num_threads(kernels_threads) reduction(+ : bound)
    {
        int left = omp_get_thread_num(), core = 0;
        for (; core < CPU_SETSIZE; ++core)
            if (CPU_ISSET(core, &cores) && left-- == 0) break;
        if (omp_get_thread_num() > 0) {
            cpu_set_t own;
            CPU_ZERO(&own);
            CPU_SET(core, &own);
            bound += sched_setaffinity(0, sizeof own, &own) == 0;
        }
    }
#endif
    return bound;
}

// Keep freed memory for the next allocation. Else the C library, from which Paddle's tensors come,
// gives large blocks back at once, and each step's activations are made of pages that the system
// has to clear first: a third of a step. Returns whether the C library knows how.
int keep_memory() {
#ifdef __GLIBC__
    const int more = 64 << 20;  // taken at a time
    return mallopt(M_MMAP_MAX, 0) && mallopt(M_TRIM_THRESHOLD, -1) && mallopt(M_TOP_PAD, more);
#else
    return 0;
#endif
}

// A thread that waits looks for work for a while (some milliseconds to 200, as the OpenMP runtime
// has it) before it sleeps. To wake it up takes up to a millisecond on a virtual machine, and more
// where others use the cores: a small kernel is done before that. While it is awake, a sixteenth of
// the work is worth a share.
int team(int64_t work) {
    using clock = std::chrono::steady_clock;
    static thread_local int awake = 1;
    static thread_local clock::time_point until;
    if (kernels_threads == 1) return 1;
    const clock::time_point now = clock::now();
    if (now > until) awake = 1;
    const int64_t light = std::max<int64_t>(1, kernels_worth / 16);
    const int64_t useful = std::max(work / kernels_worth, std::min<int64_t>(awake, work / light));
    const int threads = (int)std::min<int64_t>(std::max<int64_t>(1, useful), kernels_threads);
    if (threads > 1) {
        awake = std::max(awake, threads);
        // from the kernel's end, of which all that is known is that an operation takes no longer
        until = now + std::chrono::milliseconds(20) + std::chrono::nanoseconds(work / threads);
    }
    return threads;
}

}  // extern "C"
