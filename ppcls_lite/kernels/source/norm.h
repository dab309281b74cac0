// Batch normalisation as its neighbours use it: norm.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

struct NormShape {
    int64_t n, c, size;  // size: pixels of a plane
    float epsilon, momentum;
    int activation;
};

extern "C" {
void norm_forward(const float* x, const float* gamma, const float* beta, float* running_mean,
                  float* running_variance, float* y, float* mean, float* inverse,
                  const NormShape* shape);
void norm_backward(const float* x, const float* gamma, const float* beta, const float* mean,
                   const float* inverse, const float* dy, float* dx, float* dgamma, float* dbeta,
                   const NormShape* shape);
}

// What a batch normalisation in training reads and writes, per channel.
struct NormState {
    const float *gamma, *beta;
    float *running_mean, *running_variance, *mean, *inverse;
};

// Of one plane: its mean, and the sum of squared distances from it. Two passes, in the cache.
void plane_statistics(const float* plane, int64_t size, double* to);

// From the planes' statistics to the output: y = activation(batch_norm(x)).
void normalise_planes(const float* x, const double* parts, float* y, const NormShape& shape,
                      const NormState& state);

// The gradient that normalisation and activation hand on, formed where it is read: of `x`, what was
// normalised, and `dy`, the gradient of the activation's output.
struct Slopes {
    const float *x, *dy;
    int64_t channels, size;
    int activation;
    struct Channel {
        float mean, scale, shift, plain, weighted;
    };
    std::vector<Channel> of;
    // Planes smaller than a vector: what a channel has, for each pixel of an image.
    bool small;
    std::vector<float> mean, scale, shift, plain, weighted;

    // The first of the two passes: the sums over the batch, which are dgamma and dbeta.
    Slopes(const float* x, const float* dy, const NormShape& shape, const float* gamma,
           const float* beta, const float* mean, const float* inverse, float* dgamma, float* dbeta);
    // `count` pixels of a plane (n * channels + c) from `first` on.
    void write(int64_t plane, int64_t first, int64_t count, float* to) const;
    // All pixels of consecutive planes.
    void write_planes(int64_t first, int64_t planes, float* to) const;

    // A source of columns, as Pixels in columns.h, that is never in place.
    int64_t rows() const { return channels; }
    int64_t unit() const { return 1; }
    int64_t step() const { return 0; }
    const float* direct(int64_t, int64_t, int64_t) const { return nullptr; }
    void gather(int64_t row, int64_t rows, int64_t first, int64_t count, float* to,
                int64_t stride) const {
        for (int64_t done = 0; done < count;) {
            const int64_t at = (first + done) % size, piece = std::min(count - done, size - at);
            const int64_t plane = (first + done) / size * channels + row;
            if (small && piece == size) {
                std::vector<float> whole(rows * size);
                write_planes(plane, rows, whole.data());
                for (int64_t k = 0; k < rows; ++k)
                    std::copy_n(&whole[k * size], size, to + k * stride + done);
            } else {
                for (int64_t k = 0; k < rows; ++k)
                    write(plane + k, at, piece, to + k * stride + done);
            }
            done += piece;
        }
        for (int64_t k = 0; k < rows && count < stride; ++k)
            std::fill(to + k * stride + count, to + (k + 1) * stride, 0.0f);
    }
};
