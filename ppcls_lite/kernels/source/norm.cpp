// Batch normalisation in training and the activation behind it, forward and backward: float32, NCHW.
//
// Statistics are taken plane by plane in two passes while the plane is in the cache, and put
// together in double precision (Chan, Golub, LeVeque 1983), in a fixed order: results do not depend
// on the number of threads. Nothing but the input is kept for the backward pass, which computes the
// normalised value again. Comparisons are written so that NaN comes through.

#include <cmath>

#include "norm.h"
#include "vectors.h"

namespace {

enum Activation { NONE, RELU, RELU6, HARDSWISH };

template <int A>
inline float act(float z) {
    if (A == RELU) return z < 0 ? 0 : z;
    if (A == RELU6) {
        z = z < 0 ? 0 : z;
        return z > 6 ? 6 : z;
    }
    if (A == HARDSWISH) {
        float gate = z + 3;
        gate = gate < 0 ? 0 : gate;
        gate = gate > 6 ? 6 : gate;
        return z * gate * (1.0f / 6);
    }
    return z;
}

template <int A>
inline float slope(float z) {
    if (A == RELU) return z <= 0 ? 0.0f : 1.0f;
    if (A == RELU6) return z <= 0 || z >= 6 ? 0.0f : 1.0f;
    if (A == HARDSWISH) {
        float middle = z * (1.0f / 3) + 0.5f;
        middle = z < -3 ? 0.0f : middle;
        return z > 3 ? 1.0f : middle;
    }
    return 1;
}

typedef NormShape Norm;

// What each channel has, as often as a plane has pixels.
template <typename Of>
std::vector<float> for_each_pixel(const Norm& s, const Of& of) {
    std::vector<float> values(s.c * s.size);
    for (int64_t c = 0; c < s.c; ++c)
        for (int64_t i = 0; i < s.size; ++i) values[c * s.size + i] = of(c);
    return values;
}

template <int A>
void normalise(const float* x, float* y, const Norm& s, const float* gamma, const float* beta,
               const float* mean, const float* inverse) {
    if (s.size < LANES) {
        const std::vector<float> means = for_each_pixel(s, [&](int64_t c) { return mean[c]; });
        const std::vector<float> shifts = for_each_pixel(s, [&](int64_t c) { return beta[c]; });
        const std::vector<float> scales =
            for_each_pixel(s, [&](int64_t c) { return gamma[c] * inverse[c]; });
        const float *m = means.data(), *scale = scales.data(), *shift = shifts.data();
        for (int64_t n = 0; n < s.n; ++n) {
            const float* __restrict from = x + n * s.c * s.size;
            float* __restrict to = y + n * s.c * s.size;
#pragma omp simd
            for (int64_t i = 0; i < s.c * s.size; ++i)
                to[i] = act<A>((from[i] - m[i]) * scale[i] + shift[i]);
        }
        return;
    }
#pragma omp parallel for schedule(static) num_threads(team(8 * s.n * s.c * s.size))
    for (int64_t plane = 0; plane < s.n * s.c; ++plane) {
        const int64_t c = plane % s.c;
        const float m = mean[c], scale = gamma[c] * inverse[c], shift = beta[c];
        const float* __restrict from = x + plane * s.size;
        float* __restrict to = y + plane * s.size;
#pragma omp simd
        for (int64_t i = 0; i < s.size; ++i) to[i] = act<A>((from[i] - m) * scale + shift);
    }
}

// Sums over one plane: of the gradient, and of its product with the centred input.
template <int A>
void plane_sums(const float* __restrict in, const float* __restrict out, int64_t size,
                const Slopes::Channel& own, float inverse, double* to) {
    const float m = own.mean, scale = own.scale, shift = own.shift;
    float plain = 0, weighted = 0;
#pragma omp simd reduction(+ : plain, weighted)
    for (int64_t i = 0; i < size; ++i) {
        const float centred = in[i] - m;
        const float dz = out[i] * slope<A>(centred * scale + shift);
        plain += dz;
        weighted += dz * centred;
    }
    to[0] = plain;
    to[1] = static_cast<double>(weighted) * inverse;
}

// The same for all planes of an image whose planes are small; `products` is scratch.
template <int A>
void image_sums(const float* __restrict in, const float* __restrict out, const Slopes& s,
                const float* inverse, float* __restrict products, double* to) {
    const int64_t floats = s.channels * s.size;
    const float *m = s.mean.data(), *scale = s.scale.data(), *shift = s.shift.data();
    float* __restrict slopes = products + floats;
#pragma omp simd
    for (int64_t i = 0; i < floats; ++i) {
        const float centred = in[i] - m[i];
        slopes[i] = out[i] * slope<A>(centred * scale[i] + shift[i]);
        products[i] = slopes[i] * centred;
    }
    for (int64_t c = 0; c < s.channels; ++c) {
        float plain = 0, weighted = 0;
        for (int64_t i = c * s.size; i < (c + 1) * s.size; ++i) {
            plain += slopes[i];
            weighted += products[i];
        }
        to[2 * c] = plain;
        to[2 * c + 1] = static_cast<double>(weighted) * inverse[c];
    }
}

// The gradient of pixels [first, first + count) of an image, which begins at `in` and `out`.
template <int A>
void image_gradient(const float* __restrict in, const float* __restrict out, const Slopes& s,
                    int64_t first, int64_t count, float* __restrict to) {
    const float *m = &s.mean[first], *scale = &s.scale[first], *shift = &s.shift[first];
    const float *plain = &s.plain[first], *weighted = &s.weighted[first];
    in += first, out += first;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
        const float centred = in[i] - m[i];
        const float dz = out[i] * slope<A>(centred * scale[i] + shift[i]);
        to[i] = scale[i] * (dz - plain[i] - centred * weighted[i]);
    }
}

template <int A>
void plane_gradient(const float* __restrict in, const float* __restrict out, int64_t size,
                    const Slopes::Channel& own, float* __restrict to) {
    const float m = own.mean, scale = own.scale, shift = own.shift;
    const float plain = own.plain, weighted = own.weighted;
#pragma omp simd
    for (int64_t i = 0; i < size; ++i) {
        const float centred = in[i] - m;
        const float dz = out[i] * slope<A>(centred * scale + shift);
        to[i] = scale * (dz - plain - centred * weighted);
    }
}

}  // namespace

void plane_statistics(const float* __restrict plane, int64_t size, double* to) {
    float sum = 0, squares = 0, rest = 0;
    if (size < LANES) {  // too short for vectors
        for (int64_t i = 0; i < size; ++i) sum += plane[i];
        const float m = sum / static_cast<float>(size);
        for (int64_t i = 0; i < size; ++i) {
            squares += (plane[i] - m) * (plane[i] - m);
            rest += plane[i] - m;
        }
        to[0] = m + static_cast<double>(rest) / static_cast<double>(size);
        to[1] = squares - static_cast<double>(rest) * rest / static_cast<double>(size);
        return;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < size; ++i) sum += plane[i];
    const float m = sum / static_cast<float>(size);
#pragma omp simd reduction(+ : squares, rest)
    for (int64_t i = 0; i < size; ++i) {
        const float d = plane[i] - m;
        squares += d * d;
        rest += d;
    }
    const double count = static_cast<double>(size), r = rest;
    to[0] = m + r / count;
    to[1] = squares - r * r / count;
}

void normalise_planes(const float* x, const double* parts, float* y, const NormShape& s,
                      const NormState& state) {
    float *mean = state.mean, *inverse = state.inverse;
    std::vector<double> means(s.c), squares(s.c);
    for (int64_t n = 0; n < s.n; ++n)
        for (int64_t c = 0; c < s.c; ++c) means[c] += parts[2 * (n * s.c + c)];
    for (int64_t c = 0; c < s.c; ++c) means[c] /= static_cast<double>(s.n);
    for (int64_t n = 0; n < s.n; ++n)
        for (int64_t c = 0; c < s.c; ++c) {
            const double* own = parts + 2 * (n * s.c + c);
            const double d = own[0] - means[c];
            squares[c] += own[1] + d * d * static_cast<double>(s.size);
        }
    for (int64_t c = 0; c < s.c; ++c) {
        const double variance = squares[c] / static_cast<double>(s.n * s.size);
        mean[c] = static_cast<float>(means[c]);
        inverse[c] = static_cast<float>(1 / std::sqrt(variance + s.epsilon));
        const float keep = s.momentum;
        state.running_mean[c] = state.running_mean[c] * keep + mean[c] * (1 - keep);
        state.running_variance[c] =
            state.running_variance[c] * keep + static_cast<float>(variance) * (1 - keep);
    }
    const float *gamma = state.gamma, *beta = state.beta;
    switch (s.activation) {
        case RELU: return normalise<RELU>(x, y, s, gamma, beta, mean, inverse);
        case RELU6: return normalise<RELU6>(x, y, s, gamma, beta, mean, inverse);
        case HARDSWISH: return normalise<HARDSWISH>(x, y, s, gamma, beta, mean, inverse);
        default: return normalise<NONE>(x, y, s, gamma, beta, mean, inverse);
    }
}

Slopes::Slopes(const float* x, const float* dy, const NormShape& s, const float* gamma,
               const float* beta, const float* mean, const float* inverse, float* dgamma,
               float* dbeta)
    : x(x), dy(dy), channels(s.c), size(s.size), activation(s.activation), of(s.c),
      small(s.size < LANES) {
    const auto sums_of = s.activation == RELU        ? plane_sums<RELU>
                         : s.activation == RELU6     ? plane_sums<RELU6>
                         : s.activation == HARDSWISH ? plane_sums<HARDSWISH>
                                                     : plane_sums<NONE>;
    std::vector<double> sums(2 * s.n * s.c);
    for (int64_t c = 0; c < s.c; ++c) of[c] = {mean[c], gamma[c] * inverse[c], beta[c], 0, 0};
    if (small) {
        this->mean = for_each_pixel(s, [&](int64_t c) { return of[c].mean; });
        scale = for_each_pixel(s, [&](int64_t c) { return of[c].scale; });
        shift = for_each_pixel(s, [&](int64_t c) { return of[c].shift; });
        const auto image = s.activation == RELU        ? image_sums<RELU>
                           : s.activation == RELU6     ? image_sums<RELU6>
                           : s.activation == HARDSWISH ? image_sums<HARDSWISH>
                                                       : image_sums<NONE>;
        std::vector<float> products(2 * s.c * s.size);
        for (int64_t n = 0; n < s.n; ++n) {
            const int64_t at = n * s.c * s.size;
            image(x + at, dy + at, *this, inverse, products.data(), &sums[2 * n * s.c]);
        }
    } else {
#pragma omp parallel for schedule(static) num_threads(team(8 * s.n * s.c * s.size))
        for (int64_t plane = 0; plane < s.n * s.c; ++plane) {
            const int64_t c = plane % s.c, at = plane * s.size;
            sums_of(x + at, dy + at, s.size, of[c], inverse[c], &sums[2 * plane]);
        }
    }
    for (int64_t n = 1; n < s.n; ++n)
        for (int64_t i = 0; i < 2 * s.c; ++i) sums[i] += sums[n * 2 * s.c + i];
    for (int64_t c = 0; c < s.c; ++c) {
        const double plain = sums[2 * c], weighted = sums[2 * c + 1];
        dbeta[c] = static_cast<float>(plain);
        dgamma[c] = static_cast<float>(weighted);
        const double count = static_cast<double>(s.n * s.size);
        of[c].plain = static_cast<float>(plain / count);
        of[c].weighted = static_cast<float>(weighted / count * inverse[c]);
    }
    if (!small) return;
    plain = for_each_pixel(s, [&](int64_t c) { return of[c].plain; });
    weighted = for_each_pixel(s, [&](int64_t c) { return of[c].weighted; });
}

void Slopes::write_planes(int64_t first, int64_t planes, float* to) const {
    if (!small) {
        for (int64_t i = 0; i < planes; ++i) write(first + i, 0, size, to + i * size);
        return;
    }
    const auto image = activation == RELU        ? image_gradient<RELU>
                       : activation == RELU6     ? image_gradient<RELU6>
                       : activation == HARDSWISH ? image_gradient<HARDSWISH>
                                                 : image_gradient<NONE>;
    for (int64_t i = 0; i < planes;) {
        const int64_t c = (first + i) % channels, some = std::min(planes - i, channels - c);
        const int64_t at = (first + i - c) * size;
        image(x + at, dy + at, *this, c * size, some * size, to + i * size);
        i += some;
    }
}

void Slopes::write(int64_t plane, int64_t first, int64_t count, float* to) const {
    const int64_t at = plane * size + first;
    const Channel& own = of[plane % channels];
    switch (activation) {
        case RELU: return plane_gradient<RELU>(x + at, dy + at, count, own, to);
        case RELU6: return plane_gradient<RELU6>(x + at, dy + at, count, own, to);
        case HARDSWISH: return plane_gradient<HARDSWISH>(x + at, dy + at, count, own, to);
        default: return plane_gradient<NONE>(x + at, dy + at, count, own, to);
    }
}

extern "C" {

// y = activation(batch_norm(x)); writes the batch's mean and 1 / sqrt(variance + epsilon) (c,) and
// moves the running statistics by 1 - momentum.
void norm_forward(const float* x, const float* gamma, const float* beta, float* running_mean,
                  float* running_variance, float* y, float* mean, float* inverse,
                  const Norm* shape) {
    const Norm& s = *shape;
    std::vector<double> parts(2 * s.n * s.c);
#pragma omp parallel for schedule(static) num_threads(team(8 * s.n * s.c * s.size))
    for (int64_t plane = 0; plane < s.n * s.c; ++plane)
        plane_statistics(x + plane * s.size, s.size, &parts[2 * plane]);
    const NormState state{gamma, beta, running_mean, running_variance, mean, inverse};
    normalise_planes(x, parts.data(), y, s, state);
}

// Gradients of x (null: not wanted), gamma and beta from that of y.
void norm_backward(const float* x, const float* gamma, const float* beta, const float* mean,
                   const float* inverse, const float* dy, float* dx, float* dgamma, float* dbeta,
                   const Norm* shape) {
    const Norm& s = *shape;
    const Slopes slopes(x, dy, s, gamma, beta, mean, inverse, dgamma, dbeta);
    if (!dx) return;
    if (slopes.small) return slopes.write_planes(0, s.n * s.c, dx);
#pragma omp parallel for schedule(static) num_threads(team(8 * s.n * s.c * s.size))
    for (int64_t plane = 0; plane < s.n * s.c; ++plane)
        slopes.write(plane, 0, s.size, dx + plane * s.size);
}

}  // extern "C"
