// What the kernels set in the process that loads them.

#include <cstdint>
#include <cstdlib>
#ifdef __GLIBC__
#include <malloc.h>
#endif

extern "C" {

// See vectors.h. Python sets the number of threads when it loads the library.
int kernels_threads = 1;
int64_t kernels_worth = 4 << 20;

void use_threads(int count) { kernels_threads = count; }

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
