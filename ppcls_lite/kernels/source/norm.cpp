// Batch normalisation in training and the activation behind it, forward and backward: float32, NCHW.
//
// Statistics are taken plane by plane in two passes while the plane is in the cache, and put
// together in double precision (Chan, Golub, LeVeque 1983), in a fixed order: results do not depend
// on the number of threads. Nothing but the input is kept for the backward pass, which computes the
// normalised value again. Comparisons are written so that NaN comes through.

#include <cmath>

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

struct Norm {
    int64_t n, c, size;  // size: pixels of a plane
    float epsilon, momentum;
    int activation;
};

template <int A>
void normalise(const float* x, float* y, const Norm& s, const float* gamma, const float* beta,
               const float* mean, const float* inverse) {
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

template <int A>
void gradients(const float* x, const float* dy, float* dx, const Norm& s, const float* gamma,
               const float* beta, const float* mean, const float* inverse, float* dgamma,
               float* dbeta) {
    std::vector<double> sums(2 * s.n * s.c);
    std::vector<float> mean_of(2 * s.c);
#pragma omp parallel num_threads(team(8 * s.n * s.c * s.size))
    {
#pragma omp for schedule(static)
        for (int64_t plane = 0; plane < s.n * s.c; ++plane) {
            const int64_t c = plane % s.c;
            const float m = mean[c], inv = inverse[c], scale = gamma[c] * inv, shift = beta[c];
            const float* __restrict in = x + plane * s.size;
            const float* __restrict out = dy + plane * s.size;
            float plain = 0, weighted = 0;
#pragma omp simd reduction(+ : plain, weighted)
            for (int64_t i = 0; i < s.size; ++i) {
                const float centred = in[i] - m;
                const float dz = out[i] * slope<A>(centred * scale + shift);
                plain += dz;
                weighted += dz * centred;
            }
            sums[2 * plane] = plain;
            sums[2 * plane + 1] = static_cast<double>(weighted) * inv;
        }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < s.c; ++c) {
            double plain = 0, weighted = 0;
            for (int64_t n = 0; n < s.n; ++n) {
                plain += sums[2 * (n * s.c + c)];
                weighted += sums[2 * (n * s.c + c) + 1];
            }
            dbeta[c] = static_cast<float>(plain);
            dgamma[c] = static_cast<float>(weighted);
            const double count = static_cast<double>(s.n * s.size);
            mean_of[2 * c] = static_cast<float>(plain / count);
            mean_of[2 * c + 1] = static_cast<float>(weighted / count * inverse[c]);
        }
        if (dx) {
#pragma omp for schedule(static)
            for (int64_t plane = 0; plane < s.n * s.c; ++plane) {
                const int64_t c = plane % s.c;
                const float m = mean[c], scale = gamma[c] * inverse[c], shift = beta[c];
                const float plain = mean_of[2 * c], weighted = mean_of[2 * c + 1];
                const float* __restrict in = x + plane * s.size;
                const float* __restrict out = dy + plane * s.size;
                float* __restrict to = dx + plane * s.size;
#pragma omp simd
                for (int64_t i = 0; i < s.size; ++i) {
                    const float centred = in[i] - m;
                    const float dz = out[i] * slope<A>(centred * scale + shift);
                    to[i] = scale * (dz - plain - centred * weighted);
                }
            }
        }
    }
}

}  // namespace

extern "C" {

// y = activation(batch_norm(x)); writes the batch's mean and 1 / sqrt(variance + epsilon) (c,) and
// moves the running statistics by 1 - momentum.
void norm_forward(const float* x, const float* gamma, const float* beta, float* running_mean,
                  float* running_variance, float* y, float* mean, float* inverse,
                  const Norm* shape) {
    const Norm& s = *shape;
    std::vector<double> parts(2 * s.n * s.c);  // of each plane: mean, sum of squared distances
#pragma omp parallel num_threads(team(8 * s.n * s.c * s.size))
    {
#pragma omp for schedule(static)
        for (int64_t plane = 0; plane < s.n * s.c; ++plane) {
            const float* __restrict from = x + plane * s.size;
            float sum = 0, squares = 0, rest = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < s.size; ++i) sum += from[i];
            const float m = sum / static_cast<float>(s.size);
#pragma omp simd reduction(+ : squares, rest)
            for (int64_t i = 0; i < s.size; ++i) {
                const float d = from[i] - m;
                squares += d * d;
                rest += d;
            }
            const double size = static_cast<double>(s.size), r = rest;
            parts[2 * plane] = m + r / size;
            parts[2 * plane + 1] = squares - r * r / size;
        }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < s.c; ++c) {
            double m = 0, squares = 0;
            for (int64_t n = 0; n < s.n; ++n) m += parts[2 * (n * s.c + c)];
            m /= static_cast<double>(s.n);
            for (int64_t n = 0; n < s.n; ++n) {
                const double d = parts[2 * (n * s.c + c)] - m;
                squares += parts[2 * (n * s.c + c) + 1] + d * d * static_cast<double>(s.size);
            }
            const double variance = squares / static_cast<double>(s.n * s.size);
            mean[c] = static_cast<float>(m);
            inverse[c] = static_cast<float>(1 / std::sqrt(variance + s.epsilon));
            const float keep = s.momentum;
            running_mean[c] = running_mean[c] * keep + mean[c] * (1 - keep);
            running_variance[c] =
                running_variance[c] * keep + static_cast<float>(variance) * (1 - keep);
        }
    }
    switch (s.activation) {
        case RELU: return normalise<RELU>(x, y, s, gamma, beta, mean, inverse);
        case RELU6: return normalise<RELU6>(x, y, s, gamma, beta, mean, inverse);
        case HARDSWISH: return normalise<HARDSWISH>(x, y, s, gamma, beta, mean, inverse);
        default: return normalise<NONE>(x, y, s, gamma, beta, mean, inverse);
    }
}

// Gradients of x (null: not wanted), gamma and beta from that of y.
void norm_backward(const float* x, const float* gamma, const float* beta, const float* mean,
                   const float* inverse, const float* dy, float* dx, float* dgamma, float* dbeta,
                   const Norm* shape) {
    const Norm& s = *shape;
    switch (s.activation) {
        case RELU:
            return gradients<RELU>(x, dy, dx, s, gamma, beta, mean, inverse, dgamma, dbeta);
        case RELU6:
            return gradients<RELU6>(x, dy, dx, s, gamma, beta, mean, inverse, dgamma, dbeta);
        case HARDSWISH:
            return gradients<HARDSWISH>(x, dy, dx, s, gamma, beta, mean, inverse, dgamma, dbeta);
        default:
            return gradients<NONE>(x, dy, dx, s, gamma, beta, mean, inverse, dgamma, dbeta);
    }
}

}  // extern "C"
