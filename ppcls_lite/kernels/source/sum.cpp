// The sum of several tensors, then a factor and a shift, an activation, a factor and a shift, each of
// which may be nothing: the branches of PP-LCNetV3 and V2. float32, NCHW. A term may be what a
// normalisation has yet to make of a convolution's output; it is formed plane by plane in the cache.
// Every plane is summed by itself and in one order: results do not depend on the number of threads.

#include "activations.h"
#include "norm.h"
#include "planes.h"

struct SumShape {
    PlanesShape planes;
    int64_t terms;
    int activation;
    float before_scale, before_shift, behind_scale, behind_shift;
};

namespace {

constexpr int PARTS = 5;    // pointers of a term: x, and gamma, beta, mean, inverse or none
constexpr int SCALARS = 4;  // as in SumShape

std::vector<Planewise> terms_of(const float* const* parts, const int64_t* activations,
                                const SumShape& s) {
    std::vector<Planewise> terms;
    terms.reserve(s.terms);
    for (int64_t k = 0; k < s.terms; ++k, parts += PARTS) {
        const PlanesShape& p = s.planes;
        const NormShape norm{p.n, p.c, p.size, 0, 0, static_cast<int>(activations[k])};
        terms.emplace_back(
            Given{parts[0], parts[1] ? &norm : nullptr, parts[1], parts[2], parts[3], parts[4]}, p.size);
    }
    return terms;
}

void add(const float* __restrict from, int64_t size, float* __restrict to) {
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) to[i] += from[i];
}

template <int A>
void finish(const float* __restrict z, const SumShape& s, float* __restrict y) {
    const float scale = s.before_scale, shift = s.before_shift;
    const float factor = s.behind_scale, more = s.behind_shift;
#pragma omp simd
    for (int64_t i = 0; i < s.planes.size; ++i)
        y[i] = act<A>(z[i] * scale + shift) * factor + more;
}

// The gradient of z, and the sums that the scalars' gradients are made of.
template <int A>
void finish_backward(const float* __restrict z, const float* __restrict dy, const SumShape& s,
                     float* __restrict dz, double* to) {
    const float scale = s.before_scale, shift = s.before_shift, factor = s.behind_scale;
    float before = 0, before_plain = 0, behind = 0, plain = 0;
#pragma omp simd reduction(+ : before, before_plain, behind, plain)
    for (int64_t i = 0; i < s.planes.size; ++i) {
        const float u = z[i] * scale + shift, du = dy[i] * factor * slope<A>(u);
        before += du * z[i];
        before_plain += du;
        behind += dy[i] * act<A>(u);
        plain += dy[i];
        dz[i] = du * scale;
    }
    to[0] = before, to[1] = before_plain, to[2] = behind, to[3] = plain;
}

}  // namespace

extern "C" {

// y from the terms; z, their sum, is written too, if it is another array.
void sum_forward(const float* const* parts, const int64_t* activations, float* z, float* y,
                 const SumShape* shape) {
    const SumShape& s = *shape;
    const std::vector<Planewise> terms = terms_of(parts, activations, s);
    const auto finished = FOR_ACTIVATION(finish, s.activation);
    const int64_t size = s.planes.size;
    each(s.planes.planes(), size, 4 * s.terms * s.planes.values(), [&](int64_t plane, float* room) {
        float* sum = z + plane * size;
        terms[0].write(plane, sum);
        for (int64_t k = 1; k < s.terms; ++k) add(terms[k].read(plane, room), size, sum);
        if (z != y) finished(sum, s, y + plane * size);
    });
}

// dz, the gradient of the sum, from that of y, the four scalars' gradients, and of each term with a
// normalisation the gradients of gamma and beta, two pointers of `learnt`.
void sum_backward(const float* const* parts, const int64_t* activations, float* const* learnt,
                  const float* z, const float* dy, float* dz, float* scalars,
                  const SumShape* shape) {
    const SumShape& s = *shape;
    const std::vector<Planewise> terms = terms_of(parts, activations, s);
    const auto finished = FOR_ACTIVATION(finish_backward, s.activation);
    const int64_t size = s.planes.size, planes = s.planes.planes();
    std::vector<double> sums(SCALARS * planes), norms(2 * s.terms * planes);
    each(planes, 0, 4 * s.terms * s.planes.values(), [&](int64_t plane, float*) {
        const int64_t at = plane * size;
        finished(z + at, dy + at, s, dz + at, &sums[SCALARS * plane]);
        for (int64_t k = 0; k < s.terms; ++k)
            if (terms[k].of) terms[k].of->add_sums(dz, plane, 0, size, &norms[2 * (k * planes + plane)]);
    });
    for (int i = 0; i < SCALARS; ++i) {
        double all = 0;
        for (int64_t plane = 0; plane < planes; ++plane) all += sums[SCALARS * plane + i];
        scalars[i] = static_cast<float>(all);
    }
    for (int64_t k = 0; k < s.terms; ++k)
        if (terms[k].of)
            settle_sums(&norms[2 * k * planes], s.planes.n, s.planes.c, parts[PARTS * k + 4],
                        learnt[2 * k], learnt[2 * k + 1]);
}

}  // extern "C"
