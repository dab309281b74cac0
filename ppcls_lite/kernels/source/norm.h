// Batch normalisation as its neighbours use it: norm.cpp.
//
// What a normalisation and its activation give need not be stored: a convolution forms the values
// where it reads them (Normalised), and backward the gradient of what was normalised (Slopes).
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "activations.h"
#include "vectors.h"

struct NormShape {
    int64_t n, c, size;  // size: pixels of a plane
    float epsilon, momentum;
    int activation;
};

extern "C" {
void norm_forward(const float* x, const float* gamma, const float* beta, float* running_mean,
                  float* running_variance, float* y, float* mean, float* inverse,
                  const NormShape* shape);
void norm_values(const float* x, const float* gamma, const float* beta, const float* mean,
                 const float* inverse, float* y, const NormShape* shape);
void norm_sums(const float* x, const float* gamma, const float* beta, const float* mean,
               const float* inverse, const float* dy, float* dgamma, float* dbeta,
               const NormShape* shape);
}

// What a batch normalisation in training writes, per channel.
struct NormState {
    float *running_mean, *running_variance, *mean, *inverse;
};

// Of some values: how many, their mean, and the sum of squared distances from it.
struct Moments {
    double count = 0, mean = 0, squares = 0;
    void add(const Moments& other);  // those of more values
};

// From the sums of the distances from about the mean, and of their squares.
static inline Moments moments_about(float mean, float rest, float squares, double count) {
    const double r = rest;
    return {count, mean + r / count, squares - r * r / count};
}

// Two passes, in the cache.
Moments moments_of(const float* values, int64_t count);

// Of all planes of x, (n, c).
std::vector<Moments> planes_moments(const float* x, const NormShape& shape);

// From the planes' moments, (n, c), or those of `groups` parts of the batch to the batch's.
void settle(const std::vector<Moments>& parts, int64_t groups, const NormShape& shape,
            const NormState& state);

// What a pixel's value and gradient depend on: of a channel, or of as many as a vector has lanes.
template <typename T>
struct ChannelOf {
    T mean, scale, shift, plain, weighted;
};
typedef ChannelOf<float> Channel;

// activation(batch_norm(x)), and the gradient of x from that of it.
template <int A, typename T>
static inline T value_of(T x, const ChannelOf<T>& own) {
    return act<A>((x - own.mean) * own.scale + own.shift);
}

template <int A, typename T>
static inline T gradient_of(T x, T out, const ChannelOf<T>& own) {
    const T centred = x - own.mean;
    const T dz = out * slope<A>(centred * own.scale + own.shift);
    return own.scale * (dz - own.plain - centred * own.weighted);
}

// A source of columns, as Pixels in columns.h, that is never in place: `Own` forms planes with
// write(plane, first, count, to), or whole consecutive ones with write_planes(first, planes, to).
template <typename Own>
struct Formed {
    int64_t channels, size;

    bool small() const { return size < LANES; }  // too short for vectors
    int64_t rows() const { return channels; }
    int64_t unit() const { return 1; }
    int64_t step() const { return 0; }
    const float* direct(int64_t, int64_t, int64_t) const { return nullptr; }
    void gather(int64_t row, int64_t rows, int64_t first, int64_t count, float* to,
                int64_t stride) const {
        const Own& own = static_cast<const Own&>(*this);
        for (int64_t done = 0; done < count;) {
            const int64_t at = (first + done) % size, piece = std::min(count - done, size - at);
            const int64_t plane = (first + done) / size * channels + row;
            if (small() && piece == size) {
                std::vector<float> whole(rows * size);
                own.write_planes(plane, rows, whole.data());
                for (int64_t k = 0; k < rows; ++k)
                    std::copy_n(&whole[k * size], size, to + k * stride + done);
            } else {
                for (int64_t k = 0; k < rows; ++k) {
                    own.fetch((plane + k) * size + at + piece, piece);
                    own.write(plane + k, at, piece, to + k * stride + done);
                }
            }
            done += piece;
        }
        for (int64_t k = 0; k < rows && count < stride; ++k)
            std::fill(to + k * stride + count, to + (k + 1) * stride, 0.0f);
    }
    // All planes of `n` images.
    void write_all(int64_t n, float* to) const {
        const Own& own = static_cast<const Own&>(*this);
        if (small()) return own.write_planes(0, n * channels, to);
#pragma omp parallel for schedule(static) num_threads(team(8 * n * channels * size))
        for (int64_t plane = 0; plane < n * channels; ++plane)
            own.write(plane, 0, size, to + plane * size);
    }
};

// Ask for what will be read next: rows a plane apart are no stream that a processor foresees.
static inline void ask_for(const float* from, int64_t count) {
    for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(from + i);
}

// activation(batch_norm(x)).
struct Normalised : Formed<Normalised> {
    const float* x;
    int activation;
    std::vector<Channel> of;
    std::vector<float> mean, scale, shift;  // small planes: what a channel has, for each pixel

    Normalised(const float* x, const NormShape& shape, const float* gamma, const float* beta,
               const float* mean, const float* inverse);
    void write(int64_t plane, int64_t first, int64_t count, float* to) const;
    void write_planes(int64_t first, int64_t planes, float* to) const;
    void fetch(int64_t at, int64_t count) const { ask_for(x + at, count); }
    // Adds to to[0] the sum of the gradient of batch_norm(x), and to to[1] that of its product with
    // x - mean, of some pixels of a plane. `dy` is the gradient of all that this stands for.
    void add_sums(const float* dy, int64_t plane, int64_t first, int64_t count, double* to) const;
    // The same, to two vectors whose lanes nobody has added up yet.
    void add_lanes(const float* dy, int64_t plane, int64_t first, int64_t count, float* to) const;
};

// The gradient of x that normalisation and activation hand on, from `dy`, the gradient of what
// they gave, and the sums over the batch, which are dgamma and dbeta.
struct Slopes : Formed<Slopes> {
    Normalised of;
    const float* dy;
    std::vector<float> plain, weighted;  // small planes, as there

    Slopes(const Normalised& of, int64_t n, const float* dy, const float* inverse,
           const float* dgamma, const float* dbeta);
    void write(int64_t plane, int64_t first, int64_t count, float* to) const;
    void write_planes(int64_t first, int64_t planes, float* to) const;
    void fetch(int64_t at, int64_t count) const { ask_for(of.x + at, count), ask_for(dy + at, count); }
};

// dgamma and dbeta from sums as `add_sums` gives them, (groups, channels, 2).
void settle_sums(const double* sums, int64_t groups, int64_t channels, const float* inverse,
                 float* dgamma, float* dbeta);
// The same from the gradient `dy` of `of`.
void batch_sums(const Normalised& of, int64_t n, const float* dy, const float* inverse,
                float* dgamma, float* dbeta);

// A convolution's input: x itself, or, with a `shape`, what a normalisation makes of it.
struct Given {
    const float* x;
    const NormShape* shape;
    const float *gamma, *beta, *mean, *inverse;

    Normalised normalised() const { return {x, *shape, gamma, beta, mean, inverse}; }
    std::unique_ptr<Normalised> made() const {  // null: x itself
        return shape ? std::make_unique<Normalised>(normalised()) : nullptr;
    }
};

// The input plane by plane, of so many pixels each.
struct Planewise {
    const float* x;
    int64_t size;
    std::optional<Normalised> of;

    Planewise(const Given& given, int64_t size) : x(given.x), size(size) {
        if (given.shape) of.emplace(given.normalised());
    }
    // A plane, in memory or formed in `room`.
    const float* read(int64_t plane, float* room) const {
        if (!of) return x + plane * size;
        of->write(plane, 0, size, room);
        return room;
    }
    void write(int64_t plane, float* to) const {
        const float* from = read(plane, to);
        if (from != to) std::copy_n(from, size, to);
    }
};

// The input in memory.
struct Whole {
    std::unique_ptr<float[]> memory;
    const float* data;
    explicit Whole(const Given& given) : data(given.x) {
        if (!given.shape) return;
        memory.reset(new float[given.shape->n * given.shape->c * given.shape->size]);
        given.normalised().write_all(given.shape->n, memory.get());
        data = memory.get();
    }
};
