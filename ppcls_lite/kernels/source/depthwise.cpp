// Depthwise convolution of planes, forward and backward: float32, NCHW, one kernel per channel.
//
// Most are computed in tiles (depthwise_tiles.cpp). Here, for any window and any size: a plane is copied into a grid: padded, and with stride s split into its s * s phases, so that
// every tap of the kernel reads the grid at a constant distance from the output's place. An output
// plane is then one long sum of shifted rows, `out[i] = sum_t w[t] * grid[offset[t] + i]`, whatever
// kernel size, stride and padding. Places past the end of a row are computed and not copied out.
// Every sum has a fixed order: results do not depend on the number of threads.

#include <algorithm>
#include <memory>

#include "depthwise.h"
#include "vectors.h"

namespace {

typedef DepthwiseShape Shape;

// How planes of one shape lie in the scratch memory.
struct Plan {
    Shape s;
    int64_t rows, cols;  // of one phase
    int64_t length;      // of the sums over an output plane
    int64_t front;       // zeros before an output's gradient
    int64_t phase;       // floats a phase takes
    std::vector<int64_t> offsets;

    explicit Plan(const Shape& shape) : s(shape) {
        int64_t down = place(s.kernel_h - 1, s.dilation_h, s.stride_h).skip;
        int64_t right = place(s.kernel_w - 1, s.dilation_w, s.stride_w).skip;
        rows = s.out_h + down;
        cols = s.out_w + right;
        length = round_up<int64_t>(s.out_h * cols, LANES);
        front = down * cols + right;
        phase = round_up<int64_t>(rows * cols + right, LANES) + LANES;
        for (int a = 0; a < s.kernel_h; ++a)
            for (int b = 0; b < s.kernel_w; ++b) {
                const Tap i = row_of(a), j = col_of(b);
                offsets.push_back(phase_at(i.phase, j.phase) + i.skip * cols + j.skip);
            }
    }
    // Where a tap reads: a phase of the input, and how far on in it.
    struct Tap {
        int phase, skip;
    };
    static Tap place(int tap, int dilation, int stride) {
        return {tap * dilation % stride, tap * dilation / stride};
    }
    Tap row_of(int a) const { return place(a, s.dilation_h, s.stride_h); }
    Tap col_of(int b) const { return place(b, s.dilation_w, s.stride_w); }
    int taps() const { return s.kernel_h * s.kernel_w; }
    int64_t work() const { return 2 * s.n * s.c * length * taps(); }  // twice: memory is slower
    int64_t phase_at(int a, int b) const { return (a * s.stride_w + b) * phase; }
    int64_t grid_floats() const { return phase * s.stride_h * s.stride_w; }
    // A phase of the input's gradient is computed in whole vectors as well.
    int64_t input_length() const { return round_up<int64_t>(rows * cols, LANES); }
    int64_t gradient_floats() const { return front + std::max(input_length(), length) + LANES; }
};

// The first j with j * stride + phase >= pad, and the first one past `size` pixels.
struct Range {
    int64_t first, last;
    Range(int64_t size, int phase, int stride, int pad, int64_t limit) {
        first = std::max<int64_t>(0, (pad - phase + stride - 1) / stride);
        last = std::min<int64_t>(limit, (size + pad - phase + stride - 1) / stride);
    }
};

// Ask for what lies some rows ahead: rows cut into phases are no stream that a processor foresees.
// WRITE is 1 for memory that will be written.
template <int WRITE>
inline void fetch(const float* from, int64_t count) {
    const char* ahead = reinterpret_cast<const char*>(from) + 4096;
    for (int64_t i = 0; i < count * 4; i += 64) __builtin_prefetch(ahead + i, WRITE);
}

// Copy a plane into its grid, whose borders are zero already.
void fill(const Plan& p, const float* __restrict plane, float* __restrict grid) {
    const Shape& s = p.s;
    for (int a = 0; a < s.stride_h; ++a) {
        Range rows(s.h, a, s.stride_h, s.pad_h, p.rows);
        for (int64_t r = rows.first; r < rows.last; ++r) {
            const float* from = plane + (r * s.stride_h + a - s.pad_h) * s.w;
            if (a == 0 && s.stride_w > 1) fetch<0>(from, s.stride_h * s.w);
            for (int b = 0; b < s.stride_w; ++b) {
                Range cols(s.w, b, s.stride_w, s.pad_w, p.cols);
                float* to = grid + p.phase_at(a, b) + r * p.cols;
                int64_t shift = b - s.pad_w;
                if (s.stride_w == 1) {
                    if (cols.last > cols.first)
                        copy_row(from + cols.first + shift, to + cols.first,
                                 cols.last - cols.first);
                } else if (s.stride_w == 2) {
                    take_every_second(from + (2 * cols.first + shift), to + cols.first,
                                      cols.last - cols.first);
                } else {
                    for (int64_t j = cols.first; j < cols.last; ++j)
                        to[j] = from[s.stride_w * j + shift];
                }
            }
        }
    }
}

template <int V>
inline void sum_block(const float* grid, const int64_t* offsets, const float* weights, int taps,
                      float* out) {
    Vec sums[V] = {};
    for (int t = 0; t < taps; ++t) {
        Vec weight = splat(weights[t]);
        const float* from = grid + offsets[t];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sums[v] += weight * load(from + v * LANES);
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) store(out + v * LANES, sums[v]);
}

// out[i] = sum_t weights[t] * grid[offsets[t] + i] for i < length, a multiple of LANES.
void weighted_sums(const float* grid, const int64_t* offsets, const float* weights, int taps,
                   float* out, int64_t length) {
    int64_t i = 0;
    for (; i + 8 * LANES <= length; i += 8 * LANES)
        sum_block<8>(grid + i, offsets, weights, taps, out + i);
    for (; i + 4 * LANES <= length; i += 4 * LANES)
        sum_block<4>(grid + i, offsets, weights, taps, out + i);
    for (; i + 2 * LANES <= length; i += 2 * LANES)
        sum_block<2>(grid + i, offsets, weights, taps, out + i);
    for (; i < length; i += LANES) sum_block<1>(grid + i, offsets, weights, taps, out + i);
}

template <int T>
inline void products(const float* grid, const int64_t* offsets, const float* gradient, float* sums,
                     int64_t length) {
    Vec own[T];
    for (int t = 0; t < T; ++t) own[t] = load(sums + t * LANES);
    for (int64_t i = 0; i < length; i += LANES) {
        Vec g = load(gradient + i);
#pragma GCC unroll 13
        for (int t = 0; t < T; ++t) own[t] += g * load(grid + offsets[t] + i);
    }
    for (int t = 0; t < T; ++t) store(sums + t * LANES, own[t]);
}

// sums[t] += gradient[i] * grid[offsets[t] + i], lane by lane.
void correlate(const float* grid, const int64_t* offsets, int taps, const float* gradient,
               float* sums, int64_t length) {
    int t = 0;
    for (; t + 13 <= taps; t += 13)
        products<13>(grid, offsets + t, gradient, sums + t * LANES, length);
    for (; t + 12 <= taps; t += 12)
        products<12>(grid, offsets + t, gradient, sums + t * LANES, length);
    for (; t + 9 <= taps; t += 9)
        products<9>(grid, offsets + t, gradient, sums + t * LANES, length);
    for (; t + 4 <= taps; t += 4)
        products<4>(grid, offsets + t, gradient, sums + t * LANES, length);
    for (; t < taps; ++t) products<1>(grid, offsets + t, gradient, sums + t * LANES, length);
}

// The taps that reach one phase of the input, as offsets into the output's gradient.
struct PhaseTaps {
    std::vector<int64_t> offsets;
    std::vector<int> index;
};

std::vector<PhaseTaps> taps_of_phases(const Plan& p) {
    const Shape& s = p.s;
    std::vector<PhaseTaps> found(s.stride_h * s.stride_w);
    for (int a = 0; a < s.kernel_h; ++a)
        for (int b = 0; b < s.kernel_w; ++b) {
            const Plan::Tap i = p.row_of(a), j = p.col_of(b);
            PhaseTaps& taps = found[i.phase * s.stride_w + j.phase];
            taps.offsets.push_back(p.front - i.skip * p.cols - j.skip);
            taps.index.push_back(a * s.kernel_w + b);
        }
    return found;
}

// Copy one phase of the input's gradient to its pixels.
void scatter(const Plan& p, int a, int b, const float* __restrict phase, float* __restrict plane) {
    const Shape& s = p.s;
    Range rows(s.h, a, s.stride_h, s.pad_h, p.rows), cols(s.w, b, s.stride_w, s.pad_w, p.cols);
    for (int64_t r = rows.first; r < rows.last; ++r) {
        float* to = plane + (r * s.stride_h + a - s.pad_h) * s.w;
        const float* from = phase + r * p.cols;
        int64_t shift = b - s.pad_w;
        if (s.stride_w == 1) {
            fetch<1>(to, s.w);
            if (cols.last > cols.first)
                copy_row(from + cols.first, to + cols.first + shift, cols.last - cols.first);
        } else {
            for (int64_t j = cols.first; j < cols.last; ++j) to[s.stride_w * j + shift] = from[j];
        }
    }
}

// The same for both phases of a row where the horizontal stride is 2; `row` is scratch.
void scatter_pair(const Plan& p, int a, const float* even, const float* odd, float* row,
                  float* __restrict plane) {
    const Shape& s = p.s;
    Range rows(s.h, a, s.stride_h, s.pad_h, p.rows);
    const int64_t count = std::max<int64_t>(0, std::min(s.w, 2 * p.cols - s.pad_w));
    for (int64_t r = rows.first; r < rows.last; ++r) {
        interleave(even + r * p.cols, odd + r * p.cols, row, p.cols);
        float* to = plane + (r * s.stride_h + a - s.pad_h) * s.w;
        if (a == 0) fetch<1>(to, s.stride_h * s.w);
        copy_row(row + s.pad_w, to, count);
    }
}

}  // namespace

extern "C" {

// y (n, c, out_h, out_w) of x (n, c, h, w) and weights (c, 1, kernel_h, kernel_w).
void depthwise_forward(const float* x, const float* weights, float* y, const Shape* shape) {
    if (fits_tiles(*shape)) return tiles_forward(x, nullptr, weights, y, *shape, nullptr);
    const Plan p(*shape);
    const Shape& s = p.s;
#pragma omp parallel num_threads(team(p.work()))
    {
        std::vector<float> grid(p.grid_floats()), sums(p.length);
#pragma omp for schedule(static)
        for (int64_t plane = 0; plane < s.n * s.c; ++plane) {
            fill(p, x + plane * s.h * s.w, grid.data());
            weighted_sums(grid.data(), p.offsets.data(), weights + plane % s.c * p.taps(),
                          p.taps(), sums.data(), p.length);
            float* to = y + plane * s.out_h * s.out_w;
            for (int64_t r = 0; r < s.out_h; ++r)
                copy_row(sums.data() + r * p.cols, to + r * s.out_w, s.out_w);
        }
    }
}

// Gradients of x (null: not wanted) and of the weights from that of y.
void depthwise_backward(const float* x, const float* weights, const float* dy, float* dx,
                        float* dweights, const Shape* shape) {
    if (fits_tiles(*shape))
        return tiles_backward(x, nullptr, weights, dy, nullptr, dx, dweights, *shape, nullptr);
    const Plan p(*shape);
    const Shape& s = p.s;
    const std::vector<PhaseTaps> phases = taps_of_phases(p);
    const int taps = p.taps();
    // Images are summed in groups that depend on the shape only, then the groups.
    const int64_t groups = std::min<int64_t>(s.n, 8);
    std::vector<float> parts(groups * s.c * taps);
    const bool covered = p.rows * s.stride_h >= s.h + s.pad_h && p.cols * s.stride_w >= s.w + s.pad_w;
#pragma omp parallel num_threads(team(p.work()))
    {
        std::vector<float> grid(p.grid_floats()), gradient(p.gradient_floats());
        const int64_t room = p.input_length() + LANES;
        std::vector<float> phase(s.stride_w * room), sums(taps * LANES), chosen(taps);
        std::vector<float> row(2 * round_up<int64_t>(p.cols, LANES) + s.pad_w);
#pragma omp for schedule(static)
        for (int64_t item = 0; item < groups * s.c; ++item) {
            const int64_t group = item / s.c, channel = item % s.c;
            const float* own = weights + channel * taps;
            std::fill(sums.begin(), sums.end(), 0.0f);
            for (int64_t n = s.n * group / groups; n < s.n * (group + 1) / groups; ++n) {
                const int64_t plane = n * s.c + channel;
                const float* from = dy + plane * s.out_h * s.out_w;
                for (int64_t r = 0; r < s.out_h; ++r) {
                    fetch<0>(from + r * s.out_w, s.out_w);
                    copy_row(from + r * s.out_w, gradient.data() + p.front + r * p.cols, s.out_w);
                }
                fill(p, x + plane * s.h * s.w, grid.data());
                correlate(grid.data(), p.offsets.data(), taps, gradient.data() + p.front,
                          sums.data(), p.length);
                if (!dx) continue;
                float* to = dx + plane * s.h * s.w;
                if (!covered) std::fill(to, to + s.h * s.w, 0.0f);
                for (int a = 0; a < s.stride_h; ++a) {
                    for (int b = 0; b < s.stride_w; ++b) {
                        float* own_phase = phase.data() + b * room;
                        const PhaseTaps& reach = phases[a * s.stride_w + b];
                        const int count = static_cast<int>(reach.index.size());
                        for (int t = 0; t < count; ++t) chosen[t] = own[reach.index[t]];
                        weighted_sums(gradient.data(), reach.offsets.data(), chosen.data(), count,
                                      own_phase, p.input_length());
                        if (s.stride_w != 2) scatter(p, a, b, own_phase, to);
                    }
                    if (s.stride_w == 2)
                        scatter_pair(p, a, phase.data(), phase.data() + room, row.data(), to);
                }
            }
            for (int t = 0; t < taps; ++t) {
                parts[item * taps + t] = total(load(sums.data() + t * LANES));
            }
        }
    }
    for (int64_t i = 0; i < s.c * taps; ++i) {
        float sum = 0;
        for (int64_t group = 0; group < groups; ++group) sum += parts[group * s.c * taps + i];
        dweights[i] = sum;
    }
}

// A depthwise convolution (x -> y) and the statistics of the normalisation behind it. With an `in`,
// x is what another normalisation has yet to make the input of.
void depthwise_norm_forward(const float* x, const float* in_gamma, const float* in_beta,
                            const float* in_mean, const float* in_inverse, const float* weights,
                            float* running_mean, float* running_variance, float* y, float* mean,
                            float* inverse, const Shape* shape, const NormShape* norm,
                            const NormShape* in) {
    const Given given{x, in, in_gamma, in_beta, in_mean, in_inverse};
    const NormState state{running_mean, running_variance, mean, inverse};
    if (!fits_tiles(*shape)) {
        depthwise_forward(Whole(given).data, weights, y, shape);
        return settle(planes_moments(y, *norm), norm->n, *norm, state);
    }
    std::vector<Moments> statistics(norm->n * norm->c);
    const std::unique_ptr<Normalised> input = given.made();
    tiles_forward(x, input.get(), weights, y, *shape, statistics.data());
    settle(statistics, norm->n, *norm, state);
}

// All gradients from `dz`, that of what the normalisation gives, and from those of its gamma and
// beta, which come with it. With an `in`, dx is the gradient of what that gives, and in_dgamma and
// in_dbeta go with it; dx null: none of them is wanted.
void depthwise_norm_backward(const float* x, const float* in_gamma, const float* in_beta,
                             const float* in_mean, const float* in_inverse, const float* weights,
                             const float* gamma, const float* beta, const float* y,
                             const float* mean, const float* inverse, const float* dz,
                             const float* dgamma, const float* dbeta, float* dx, float* dweights,
                             float* in_dgamma, float* in_dbeta, const Shape* shape,
                             const NormShape* norm, const NormShape* in) {
    const Given given{x, in, in_gamma, in_beta, in_mean, in_inverse};
    const Normalised output(y, *norm, gamma, beta, mean, inverse);
    const Slopes slopes(output, norm->n, dz, inverse, dgamma, dbeta);
    if (fits_tiles(*shape)) {
        const std::unique_ptr<Normalised> input = given.made();
        std::vector<double> sums(in && dx ? 2 * in->n * in->c : 0);
        tiles_backward(x, input.get(), weights, nullptr, &slopes, dx, dweights, *shape,
                       sums.empty() ? nullptr : sums.data());
        if (!sums.empty())
            settle_sums(sums.data(), in->n, in->c, in_inverse, in_dgamma, in_dbeta);
        return;
    }
    const std::unique_ptr<float[]> dy(new float[norm->n * norm->c * norm->size]);
    slopes.write_all(norm->n, dy.get());
    depthwise_backward(Whole(given).data, weights, dy.get(), dx, dweights, shape);
    if (in && dx) norm_sums(x, in_gamma, in_beta, in_mean, in_inverse, dx, in_dgamma, in_dbeta, in);
}

}  // extern "C"
