// Cross entropy of pixels over their classes, forward and backward: float32, NCHW.
//
// A vector holds one class of neighbouring pixels. A few pixels at a time are copied together, all
// their classes in the first cache: planes lie far apart, often at distances that share few sets of
// it. Forward keeps log(sum(exp)) of each pixel, and backward forms the probabilities from it and
// the logits again, which costs less than writing and reading them. Comparisons are written so that
// NaN comes through.

#include <algorithm>
#include <cmath>
#include <limits>

#include "planes.h"

namespace {

constexpr int64_t PIXELS = 4 * LANES;  // of a piece

// e^x of x <= 0 (or NaN), to 1e-7 of its value; 0 below the smallest normal number. Cephes's method
// (Moshier 1992): x = n log 2 + r, a polynomial for e^r, and n as an exponent.
inline Vec exponential(Vec x) {
    const Vec low = splat(-87.0f);
    const Vec inside = x < low ? low : x;
    const Vec shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
    const Vec whole = (inside * splat(1.44269504f) + shift) - shift;
    const Vec r = (inside - whole * splat(0.693359375f)) - whole * splat(-2.12194440e-4f);
    Vec value = splat(1.9875691500e-4f);
    for (float factor : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f,
                         5.0000001201e-1f})
        value = value * r + splat(factor);
    value = value * r * r + r + splat(1.0f);
    // The bits of whole + 1.5 * 2^23 end with `whole` itself; NaN stays in `value`.
    const Vec bits = whole + shift;
    Mask exponent;
    std::memcpy(&exponent, &bits, sizeof bits);
    exponent = (exponent << 23) + (127 << 23);
    Vec power;
    std::memcpy(&power, &exponent, sizeof power);
    return x < low ? Vec{} : value * power;
}

// Copy `count` pixels of all classes together; what is missing of a piece repeats the last of them.
void gather(const float* from, const PlanesShape& s, int64_t count, float* to) {
    for (int64_t c = 0; c < s.c; ++c) {
        copy_row(from + c * s.size, to + c * PIXELS, count);
        std::fill(to + c * PIXELS + count, to + (c + 1) * PIXELS, from[c * s.size + count - 1]);
    }
}

// For each pixel of a gathered piece the logarithm of the sum of e^logit.
void log_sums(const float* piece, int64_t classes, float* to) {
    for (int64_t i = 0; i < PIXELS; i += LANES) {
        Vec largest = load(piece + i), sum{};
        for (int64_t c = 1; c < classes; ++c) {
            const Vec value = load(piece + c * PIXELS + i);
            largest = value < largest ? largest : value;
        }
        for (int64_t c = 0; c < classes; ++c)
            sum += exponential(load(piece + c * PIXELS + i) - largest);
        for (int k = 0; k < LANES; ++k) to[i + k] = std::log(sum[k]) + largest[k];
    }
}

// Some neighbouring pixels of an image.
struct Piece {
    int64_t begin, corner, count;  // its place among all pixels and among all logits; pixels

    Piece(const PlanesShape& s, int64_t image, int64_t first)
        : begin(image * s.size + first),
          corner(image * s.c * s.size + first),
          count(std::min(PIXELS, s.size - first)) {}
};

// work(piece, room for its pixels of all classes) for all pixels.
template <typename Work>
void each_piece(const PlanesShape& s, const Work& work) {
    const int64_t pieces = (s.size + PIXELS - 1) / PIXELS;
    each(s.n * pieces, s.c * PIXELS, 20 * s.values(), [&](int64_t at, float* room) {
        work(Piece(s, at / pieces, at % pieces * PIXELS), room);
    });
}

}  // namespace

extern "C" {

// logits (n, c, size), classes (n, size) -> losses and log_sum (n, size). A pixel whose class is
// none of 0 ... c - 1 has the loss NaN.
void entropy_forward(const float* logits, const int64_t* classes, float* losses, float* log_sum,
                     const PlanesShape* shape) {
    const PlanesShape s = *shape;
    each_piece(s, [&](const Piece& piece, float* values) {
        gather(logits + piece.corner, s, piece.count, values);
        float sums[PIXELS];
        log_sums(values, s.c, sums);
        for (int64_t i = 0; i < piece.count; ++i) {
            const int64_t own = classes[piece.begin + i];
            const bool known = own >= 0 && own < s.c;
            const float logit =
                known ? values[own * PIXELS + i] : std::numeric_limits<float>::quiet_NaN();
            losses[piece.begin + i] = sums[i] - logit;
            log_sum[piece.begin + i] = sums[i];
        }
    });
}

// The gradient of the logits from `dlosses` (n, size), that of the losses.
void entropy_backward(const float* logits, const int64_t* classes, const float* log_sum,
                      const float* dlosses, float* dlogits, const PlanesShape* shape) {
    const PlanesShape s = *shape;
    each_piece(s, [&](const Piece& piece, float* values) {
        float sums[PIXELS] = {}, slopes[PIXELS] = {};
        copy_row(log_sum + piece.begin, sums, piece.count);
        copy_row(dlosses + piece.begin, slopes, piece.count);
        gather(logits + piece.corner, s, piece.count, values);
        for (int64_t i = 0; i < round_up(piece.count, (int64_t)LANES); i += LANES)
            for (int64_t c = 0; c < s.c; ++c) {
                float* value = values + c * PIXELS + i;
                store(value, exponential(load(value) - load(sums + i)) * load(slopes + i));
            }
        for (int64_t i = 0; i < piece.count; ++i) {
            const int64_t own = classes[piece.begin + i];
            if (own >= 0 && own < s.c) values[own * PIXELS + i] -= slopes[i];
        }
        for (int64_t c = 0; c < s.c; ++c)
            copy_row(values + c * PIXELS, dlogits + piece.corner + c * s.size, piece.count);
    });
}

}  // extern "C"
