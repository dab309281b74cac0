// Bilinear interpolation of planes, forward and backward: float32, NCHW.
//
// Each axis comes as a table: for each of its large pixels the first of the two small ones that it
// mixes, and the second one's share. A plane is widened row by row first, so that mixing rows,
// which is most of the work, runs over whole rows in memory; backward goes the other way round.

#include <algorithm>
#include <cstdint>

#include "planes.h"

struct BilinearShape {
    int64_t planes, h, w, out_h, out_w;
};

namespace {

// For each pixel of an axis: its two neighbours, and the second one's share.
struct Axis {
    const int64_t* low;
    const float* share;
    int64_t last;  // of the small pixels

    int64_t first(int64_t at) const { return low[at]; }
    int64_t second(int64_t at) const { return std::min(low[at] + 1, last); }
};

void widen(const float* __restrict row, const Axis& axis, int64_t width, float* __restrict to) {
    for (int64_t i = 0; i < width; ++i) {
        const float share = axis.share[i];
        to[i] = row[axis.first(i)] * (1 - share) + row[axis.second(i)] * share;
    }
}

void narrow(const float* __restrict row, const Axis& axis, int64_t width, float* __restrict to) {
    for (int64_t i = 0; i < width; ++i) {
        to[axis.first(i)] += row[i] * (1 - axis.share[i]);
        to[axis.second(i)] += row[i] * axis.share[i];
    }
}

// work(plane, room for one that is widened) for all planes.
template <typename Work>
void each_plane(const BilinearShape& s, const Work& work) {
    each(s.planes, s.h * s.out_w, 4 * s.planes * (s.out_h + s.h) * s.out_w, work);
}

}  // namespace

extern "C" {

// x (planes, h, w) -> y (planes, out_h, out_w).
void bilinear_forward(const float* x, const int64_t* rows, const float* row_shares,
                      const int64_t* columns, const float* column_shares, float* y,
                      const BilinearShape* shape) {
    const BilinearShape s = *shape;
    const Axis vertical{rows, row_shares, s.h - 1}, horizontal{columns, column_shares, s.w - 1};
    each_plane(s, [&](int64_t plane, float* wide) {
        for (int64_t i = 0; i < s.h; ++i)
            widen(x + (plane * s.h + i) * s.w, horizontal, s.out_w, wide + i * s.out_w);
        for (int64_t i = 0; i < s.out_h; ++i) {
            const float* __restrict a = wide + vertical.first(i) * s.out_w;
            const float* __restrict b = wide + vertical.second(i) * s.out_w;
            float* __restrict to = y + (plane * s.out_h + i) * s.out_w;
            const float share = row_shares[i], rest = 1 - share;
#pragma omp simd
            for (int64_t k = 0; k < s.out_w; ++k) to[k] = a[k] * rest + b[k] * share;
        }
    });
}

// The gradient of x from that of y.
void bilinear_backward(const float* dy, const int64_t* rows, const float* row_shares,
                       const int64_t* columns, const float* column_shares, float* dx,
                       const BilinearShape* shape) {
    const BilinearShape s = *shape;
    const Axis vertical{rows, row_shares, s.h - 1}, horizontal{columns, column_shares, s.w - 1};
    each_plane(s, [&](int64_t plane, float* wide) {
        std::fill_n(wide, s.h * s.out_w, 0.0f);
        for (int64_t i = 0; i < s.out_h; ++i) {
            const float* __restrict from = dy + (plane * s.out_h + i) * s.out_w;
            float* a = wide + vertical.first(i) * s.out_w;
            float* b = wide + vertical.second(i) * s.out_w;  // may be `a`
            const float share = row_shares[i], rest = 1 - share;
#pragma omp simd
            for (int64_t k = 0; k < s.out_w; ++k) a[k] += from[k] * rest;
#pragma omp simd
            for (int64_t k = 0; k < s.out_w; ++k) b[k] += from[k] * share;
        }
        std::fill_n(dx + plane * s.h * s.w, s.h * s.w, 0.0f);
        for (int64_t i = 0; i < s.h; ++i)
            narrow(wide + i * s.out_w, horizontal, s.out_w, dx + (plane * s.h + i) * s.w);
    });
}

}  // extern "C"
