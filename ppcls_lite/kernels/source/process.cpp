// What the kernels set in the process that loads them.

#include <cstdint>
#include <cstdlib>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#if defined(_OPENMP) && defined(__linux__)
#include <omp.h>
#include <sched.h>
#endif

extern "C" {

// See vectors.h. Python sets the number of threads when it loads the library.
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

}  // extern "C"
