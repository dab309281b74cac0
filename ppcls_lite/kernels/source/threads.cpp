// The number of threads that all kernels use; Python sets it when it loads the library.

extern "C" {

int kernels_threads = 1;

void use_threads(int count) { kernels_threads = count; }

}  // extern "C"
