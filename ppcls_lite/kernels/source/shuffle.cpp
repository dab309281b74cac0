// What ShuffleNet does between its convolutions: halves of the channels, and channels of two tensors
// in turns. float32, NCHW. A tensor with an `in` is what a normalisation has yet to make of it, plane
// by plane. Planes are copied or summed each by itself: results do not depend on the number of threads.

#include <optional>

#include "norm.h"
#include "planes.h"

struct ShuffleShape {
    PlanesShape half;
    int64_t halved;
};

namespace {

void copy(const float* from, int64_t size, float* to) {
    std::memcpy(to, from, static_cast<size_t>(size) * sizeof(float));
}

}  // namespace

extern "C" {

// y (n, 2 c): the channels of `one` and `two`, each (n, c), in turns. `halved`: `one` has 2 c
// channels, and its first half is read; it then has no `one_in`.
void shuffle_forward(const float* one, const float* one_gamma, const float* one_beta,
                     const float* one_mean, const float* one_inverse, const float* two,
                     const float* two_gamma, const float* two_beta, const float* two_mean,
                     const float* two_inverse, float* y, const ShuffleShape* shape,
                     const NormShape* one_in, const NormShape* two_in) {
    const PlanesShape& s = shape->half;
    const Planewise a({one, one_in, one_gamma, one_beta, one_mean, one_inverse}, s.size);
    const Planewise b({two, two_in, two_gamma, two_beta, two_mean, two_inverse}, s.size);
    each(s.planes(), 0, 4 * s.values(), [&](int64_t plane, float*) {
        const int64_t behind = shape->halved ? plane / s.c * s.c : 0;  // planes of second halves
        a.write(plane + behind, y + 2 * plane * s.size);
        b.write(plane, y + (2 * plane + 1) * s.size);
    });
}

// The gradient of one of the two, from its first plane in that of y on. With an `in`, in_dgamma and
// in_dbeta go with it.
void shuffle_backward(const float* x, const float* in_gamma, const float* in_beta,
                      const float* in_mean, const float* in_inverse, const float* dy, float* dx,
                      float* in_dgamma, float* in_dbeta, const PlanesShape* shape,
                      const NormShape* in) {
    const PlanesShape& s = *shape;
    std::optional<Normalised> of;
    if (in) of.emplace(x, *in, in_gamma, in_beta, in_mean, in_inverse);
    std::vector<double> sums(in ? 2 * s.planes() : 0);
    each(s.planes(), 0, 4 * s.values(), [&](int64_t plane, float*) {
        copy(dy + 2 * plane * s.size, s.size, dx + plane * s.size);
        if (in) of->add_sums(dx, plane, 0, s.size, &sums[2 * plane]);
    });
    if (in) settle_sums(sums.data(), s.n, s.c, in_inverse, in_dgamma, in_dbeta);
}

// y (n, c): the second half of the channels of x.
void half_forward(const float* x, float* y, const PlanesShape* shape) {
    const int64_t image = shape->c * shape->size;
    each(shape->n, 0, 2 * shape->values(), [&](int64_t n, float*) {
        copy(x + (2 * n + 1) * image, image, y + n * image);
    });
}

// The gradient of x, whose first half took turns with another tensor, from the gradient of the
// tensor in turns, (n, 2 c) (null: it has none), and that of the second half.
void half_backward(const float* dturns, const float* dhalf, float* dx, const PlanesShape* shape) {
    const int64_t size = shape->size, image = shape->c * size;
    each(shape->planes(), 0, 4 * shape->values(), [&](int64_t plane, float*) {
        const int64_t n = plane / shape->c, c = plane % shape->c;
        float* first = dx + 2 * n * image + c * size;
        if (dturns)
            copy(dturns + 2 * plane * size, size, first);
        else
            std::fill(first, first + size, 0.0f);
        copy(dhalf + plane * size, size, dx + (2 * n + 1) * image + c * size);
    });
}

}  // extern "C"
