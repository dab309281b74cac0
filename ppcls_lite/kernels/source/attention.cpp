// Channel attention: each plane times a factor that a small network makes of the planes' means.
// float32, NCHW. With an `in`, x is what a normalisation has yet to make the input of, plane by plane
// in the cache. Every plane is summed by itself: results do not depend on the number of threads.

#include "norm.h"
#include "planes.h"

namespace {

// work(plane, room for one) for all planes.
template <typename Work>
void each_plane(const PlanesShape& s, const Work& work) {
    each(s.planes(), s.size, 4 * s.values(), work);
}

float sum(const float* __restrict values, int64_t size) {
    float all = 0;
#pragma omp simd reduction(+ : all)
    for (int64_t i = 0; i < size; ++i) all += values[i];
    return all;
}

float sum_of_products(const float* __restrict a, const float* __restrict b, int64_t size) {
    float all = 0;
#pragma omp simd reduction(+ : all)
    for (int64_t i = 0; i < size; ++i) all += a[i] * b[i];
    return all;
}

void scale(const float* __restrict from, float factor, float more, int64_t size,
           float* __restrict to) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) to[i] = from[i] * factor + more;
}

}  // namespace

extern "C" {

// means (n, c) of the planes.
void attention_means(const float* x, const float* in_gamma, const float* in_beta,
                     const float* in_mean, const float* in_inverse, float* means,
                     const PlanesShape* shape, const NormShape* in) {
    const Planewise input({x, in, in_gamma, in_beta, in_mean, in_inverse}, shape->size);
    const int64_t size = shape->size;
    each_plane(*shape, [&](int64_t plane, float* room) {
        means[plane] = sum(input.read(plane, room), size) / static_cast<float>(size);
    });
}

// y = x * gates (n, c)
void attention_forward(const float* x, const float* in_gamma, const float* in_beta,
                       const float* in_mean, const float* in_inverse, const float* gates, float* y,
                       const PlanesShape* shape, const NormShape* in) {
    const Planewise input({x, in, in_gamma, in_beta, in_mean, in_inverse}, shape->size);
    const int64_t size = shape->size;
    each_plane(*shape, [&](int64_t plane, float* room) {
        scale(input.read(plane, room), gates[plane], -0.0f, size, y + plane * size);
    });
}

// The gates' gradient (n, c) from that of y.
void attention_gates_backward(const float* x, const float* in_gamma, const float* in_beta,
                              const float* in_mean, const float* in_inverse, const float* dy,
                              float* dgates, const PlanesShape* shape, const NormShape* in) {
    const Planewise input({x, in, in_gamma, in_beta, in_mean, in_inverse}, shape->size);
    const int64_t size = shape->size;
    each_plane(*shape, [&](int64_t plane, float* room) {
        dgates[plane] = sum_of_products(input.read(plane, room), dy + plane * size, size);
    });
}

// The gradient of the planes, from that of y and that of the means. With an `in`, in_dgamma and
// in_dbeta go with it.
void attention_input_backward(const float* x, const float* in_gamma, const float* in_beta,
                              const float* in_mean, const float* in_inverse, const float* gates,
                              const float* dy, const float* dmeans, float* dx, float* in_dgamma,
                              float* in_dbeta, const PlanesShape* shape, const NormShape* in) {
    const Planewise input({x, in, in_gamma, in_beta, in_mean, in_inverse}, shape->size);
    const int64_t size = shape->size;
    std::vector<double> sums(in ? 2 * shape->planes() : 0);
    each_plane(*shape, [&](int64_t plane, float*) {
        float* to = dx + plane * size;
        scale(dy + plane * size, gates[plane], dmeans[plane] / static_cast<float>(size), size, to);
        if (in) input.of->add_sums(dx, plane, 0, size, &sums[2 * plane]);
    });
    if (in) settle_sums(sums.data(), shape->n, shape->c, in_inverse, in_dgamma, in_dbeta);
}

}  // extern "C"
