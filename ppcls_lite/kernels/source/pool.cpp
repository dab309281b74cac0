// Pooling: the largest value of each window, or the mean. float32, NCHW.
//
// As depthwise convolutions in tiles: a vector holds one pixel of as many planes as it has lanes,
// and bands of rows stay in the cache. Windows end at the plane's borders. With an `in`, x is what a
// normalisation has yet to make the input of. Of equal values the first of a window is the largest,
// and gets the gradient; backward it is looked for again. Every plane is by itself: results do not
// depend on the number of threads.

#include <algorithm>
#include <cfloat>
#include <memory>

#include "norm.h"
#include "turned_planes.h"

struct PoolShape {
    int64_t n, c, h, w, out_h, out_w;
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, average;
};

namespace {

typedef PoolShape Shape;

// The pixels of a window along an axis, inside the plane.
struct Span {
    int64_t begin, end;
    Span(int64_t at, int kernel, int stride, int pad, int64_t size)
        : begin(std::max<int64_t>(0, at * stride - pad)),
          end(std::min<int64_t>(size, at * stride - pad + kernel)) {}
};

struct Plan {
    Shape s;
    int64_t rows;  // of the output in a band
    explicit Plan(const Shape& s) : s(s) {
        const int64_t bytes = (2 * s.stride_h * s.w + 2 * s.out_w) * LANES * 4;  // of one of them
        rows = std::clamp<int64_t>(BAND_BYTES / bytes, 1, s.out_h);
    }
    int64_t planes() const { return s.n * s.c; }
    int64_t blocks() const { return (planes() + LANES - 1) / LANES; }
    int64_t lanes(int64_t block) const {
        return std::min<int64_t>(LANES, planes() - block * LANES);
    }
    int64_t work() const { return 4 * planes() * s.out_h * s.out_w * s.kernel_h * s.kernel_w; }
    Span down(int64_t row) const { return {row, s.kernel_h, s.stride_h, s.pad_h, s.h}; }
    Span right(int64_t col) const { return {col, s.kernel_w, s.stride_w, s.pad_w, s.w}; }
    Grid input() const {
        return {std::min(s.h, rows * s.stride_h + s.kernel_h), s.w, 0, s.w};
    }
    Grid output() const { return {rows, s.out_w, 0, s.out_w}; }
};

// use(vector in the tile) for the pixels of a window, whose rows begin at `from`.
template <typename Use>
void for_window(float* from, int64_t width, const Span& down, const Span& right, const Use& use) {
    for (int64_t a = 0; a < down.end - down.begin; ++a)
        for (int64_t b = right.begin; b < right.end; ++b) use(from + (a * width + b) * LANES);
}

Vec largest(float* from, int64_t width, const Span& down, const Span& right) {
    Vec most = splat(-FLT_MAX);  // and comparisons, as Paddle has them
    for_window(from, width, down, right, [&](const float* at) {
        const Vec value = load(at);
        most = most > value ? most : value;
    });
    return most;
}

float count(const Span& down, const Span& right) {
    return static_cast<float>((down.end - down.begin) * (right.end - right.begin));
}

}  // namespace

extern "C" {

// y (n, c, out_h, out_w) of x (n, c, h, w).
void pool_forward(const float* x, const float* in_gamma, const float* in_beta, const float* in_mean,
                  const float* in_inverse, float* y, const Shape* shape, const NormShape* in) {
    const Plan p(*shape);
    const Shape& s = p.s;
    const int64_t size = s.h * s.w, out_size = s.out_h * s.out_w;
    const Given given{x, in, in_gamma, in_beta, in_mean, in_inverse};
    const std::unique_ptr<Normalised> values = given.made();
    const Grid inputs = p.input(), outputs = p.output();
#pragma omp parallel num_threads(team(p.work()))
    {
        Rows input(inputs);
        const Tile output(outputs.rows * outputs.width);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < p.blocks(); ++block) {
            const int64_t first = block * LANES, lanes = p.lanes(block);
            input.clear();
            for (int64_t begin = 0; begin < s.out_h; begin += p.rows) {
                const int64_t end = std::min(s.out_h, begin + p.rows);
                input.take(p.down(begin).begin, p.down(end - 1).end,
                           [&](int64_t row, int64_t rows, float* to) {
                               turn_in(x, values.get(), first, size, lanes, inputs, row, rows, to);
                           });
                float* to = output.data;
                for (int64_t r = begin; r < end; ++r) {
                    const Span down = p.down(r);
                    for (int64_t j = 0; j < s.out_w; ++j, to += LANES) {
                        const Span right = p.right(j);
                        Vec sum{};
                        if (s.average)
                            for_window(input.row(down.begin), s.w, down, right,
                                       [&](const float* at) { sum += load(at); });
                        store(to, s.average ? sum / count(down, right)
                                            : largest(input.row(down.begin), s.w, down, right));
                    }
                }
                turn_out(output.data, lanes, outputs, begin, end - begin, out_size,
                         y + first * out_size);
            }
        }
    }
}

// The gradient of x from that of y. With an `in`, in_dgamma and in_dbeta go with it.
void pool_backward(const float* x, const float* in_gamma, const float* in_beta,
                   const float* in_mean, const float* in_inverse, const float* dy, float* dx,
                   float* in_dgamma, float* in_dbeta, const Shape* shape, const NormShape* in) {
    const Plan p(*shape);
    const Shape& s = p.s;
    const int64_t size = s.h * s.w, out_size = s.out_h * s.out_w;
    const Given given{x, in, in_gamma, in_beta, in_mean, in_inverse};
    const std::unique_ptr<Normalised> values = given.made();
    const Grid inputs = p.input(), outputs = p.output();
    std::vector<double> sums(in ? 2 * p.planes() : 0);
#pragma omp parallel num_threads(team(2 * p.work()))
    {
        Rows input(inputs), gradient(inputs);
        const Tile slopes(outputs.rows * outputs.width);
#pragma omp for schedule(static)
        for (int64_t block = 0; block < p.blocks(); ++block) {
            const int64_t first = block * LANES, lanes = p.lanes(block);
            input.clear(), gradient.clear();
            int64_t done = 0;  // rows whose gradient is complete
            for (int64_t begin = 0; begin < s.out_h; begin += p.rows) {
                const int64_t end = std::min(s.out_h, begin + p.rows), top = p.down(begin).begin;
                const int64_t bottom = p.down(end - 1).end;
                const int64_t last = end == s.out_h ? s.h : p.down(end).begin;  // complete by then
                turn_in(Planes{dy + first * out_size, out_size, lanes}, outputs, begin, end - begin,
                        slopes.data);
                gradient.take(done, std::max(bottom, last), [&](int64_t, int64_t rows, float* to) {
                    std::fill_n(to, rows * s.w * LANES, 0.0f);
                });
                if (!s.average)
                    input.take(top, bottom, [&](int64_t row, int64_t rows, float* to) {
                        turn_in(x, values.get(), first, size, lanes, inputs, row, rows, to);
                    });
                const float* slope = slopes.data;
                for (int64_t r = begin; r < end; ++r) {
                    const Span down = p.down(r);
                    for (int64_t j = 0; j < s.out_w; ++j, slope += LANES) {
                        const Span right = p.right(j);
                        float* to = gradient.row(down.begin);
                        if (s.average) {
                            const Vec part = load(slope) * (1 / count(down, right));
                            for_window(to, s.w, down, right,
                                       [&](float* at) { store(at, load(at) + part); });
                            continue;
                        }
                        const float* read = input.row(down.begin);
                        const Vec most = largest(input.row(down.begin), s.w, down, right);
                        Vec left = load(slope);  // of the lanes whose largest has yet to come
                        for_window(to, s.w, down, right, [&](float* at) {
                            const auto hit = load(read + (at - to)) == most;
                            store(at, load(at) + (hit ? left : Vec{}));
                            left = hit ? Vec{} : left;
                        });
                    }
                }
                if (last > done)
                    turn_out(gradient.row(done), lanes, inputs, done, last - done, size,
                             dx + first * size);
                for (int64_t i = first; in && i < first + lanes; ++i)
                    values->add_sums(dx, i, done * s.w, (last - done) * s.w, &sums[2 * i]);
                done = last;
            }
        }
    }
    if (in) settle_sums(sums.data(), s.n, s.c, in_inverse, in_dgamma, in_dbeta);
}

}  // extern "C"
