// Depthwise convolution in tiles: as many planes as a vector has lanes, turned so that a vector
// holds one pixel of each of them.
//
// Every load is then whole and aligned, nothing outside the planes' rows is computed, and small
// planes fill the vectors as well as large ones. Rows that lie outside a plane are left out;
// columns outside are zeros in the tile. Sums have the order of the taps, and those of the weights'
// gradient are added in groups of images that depend on the shape only: results do not depend on
// the number of threads.

#include <algorithm>
#include <memory>

#include "depthwise.h"
#include "vectors.h"

namespace {

typedef DepthwiseShape Shape;

constexpr int64_t ROOM = 3 << 20;  // bytes of a backward pass: 112x112 still gains, larger may not

// Vectors, aligned.
struct Tile {
    std::unique_ptr<float[]> memory;
    float* data;
    explicit Tile(int64_t vectors) : memory(new float[(vectors + 1) * LANES]()) {
        const uintptr_t at = reinterpret_cast<uintptr_t>(memory.get()), unit = LANES * 4;
        data = memory.get() + ((unit - at % unit) % unit) / 4;
    }
};

// Which planes share the lanes of a tile: consecutive ones of an image, or of several images where
// an image has few. Blocks of the same channels come once per round.
struct Blocks {
    int64_t c, per_image, images, rounds, planes;
    explicit Blocks(const Shape& s) : c(s.c), planes(s.n * s.c) {
        per_image = (c + LANES - 1) / LANES;
        images = c < LANES ? LANES / c : 1;
        rounds = (s.n + images - 1) / images;
    }
    int64_t first(int64_t round, int64_t block) const { return round * images * c + block * LANES; }
    int64_t lanes(int64_t round, int64_t block) const {
        const int64_t most = per_image == 1 ? images * c : std::min<int64_t>(LANES, c - block * LANES);
        return std::min(most, planes - first(round, block));
    }
    int64_t channel(int64_t block, int64_t lane) const { return (block * LANES + lane) % c; }
};

// Outputs that are computed at once: what wastes least of a row.
int64_t outputs_at_once(int64_t width) {
    int64_t best = 8;
    for (int64_t q : {7, 4, 2, 1})
        if ((width + q - 1) / q * (q + 1) < (width + best - 1) / best * (best + 1)) best = q;
    return best;
}

// The pixels of one phase of the input along an axis, and the taps that reach them, last to first.
struct Phase {
    int64_t first, count, reach;  // pixel first + stride * u reads the output at u + reach + t
    std::vector<int> taps;
    Phase(int64_t size, int kernel, int stride, int pad, int at) {
        first = ((at - pad) % stride + stride) % stride;
        count = size > first ? (size - first + stride - 1) / stride : 0;
        for (int a = kernel; a-- > 0;)
            if (a % stride == at) taps.push_back(a);
        reach = taps.empty() ? 0 : (first + pad - taps[0]) / stride;
    }
};

// How the planes of one shape lie in their tiles: rows of vectors, pixel j of a row at `left` + j.
struct Grid {
    int64_t left, width;
    std::vector<int64_t> places;  // of all pixels, in floats
    Grid(int64_t rows, int64_t cols, int64_t left, int64_t width) : left(left), width(width) {
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t j = 0; j < cols; ++j) places.push_back((r * width + left + j) * LANES);
    }
    int64_t vectors(int64_t rows) const { return rows * width; }
};

struct Plan {
    Shape s;
    Blocks blocks;
    int64_t at_once, out_cols;  // of an output row, rounded up
    std::vector<Phase> down, right;
    std::vector<int64_t> right_at_once;
    Grid input, output, gradient, input_gradient;

    explicit Plan(const Shape& s)
        : s(s), blocks(s), at_once(outputs_at_once(s.out_w)),
          out_cols(round_up(s.out_w, at_once)), down(phases(s.h, s.kernel_h, s.stride_h, s.pad_h)),
          right(phases(s.w, s.kernel_w, s.stride_w, s.pad_w)),
          input(s.h, s.w, s.pad_w,
                std::max(s.pad_w + s.w, (out_cols - 1) * s.stride_w + s.kernel_w)),
          output(s.out_h, s.out_w, 0, out_cols),
          gradient(0, 0, 0, 0), input_gradient(0, 0, 0, 0) {
        int64_t left = 0, width = out_cols, columns = s.w;
        for (const Phase& p : right) {
            const int64_t q = outputs_at_once(p.count), whole = round_up(p.count, q);
            right_at_once.push_back(q);
            left = std::max(left, -p.reach);
            width = std::max(width, whole + p.reach + (int64_t)p.taps.size() - 1);
            columns = std::max(columns, p.first + s.stride_w * (whole - 1) + 1);
        }
        gradient = Grid(s.out_h, s.out_w, left, left + width);
        input_gradient = Grid(s.h, s.w, 0, columns);
    }
    static std::vector<Phase> phases(int64_t size, int kernel, int stride, int pad) {
        std::vector<Phase> found;
        for (int at = 0; at < stride; ++at) found.emplace_back(size, kernel, stride, pad, at);
        return found;
    }
    int taps() const { return s.kernel_h * s.kernel_w; }
    int64_t work() const { return 2 * s.n * s.c * s.out_h * out_cols * taps(); }
};

// `size` pixels of some planes, each `stride` apart, to a tile; lanes past `lanes` are zero.
void turn_in(const float* planes, int64_t stride, int64_t lanes, int64_t size, const int64_t* place,
             float* tile) {
    if (size < LANES) {
        for (int64_t p = 0; p < size; ++p) {
            float* to = tile + place[p];
            for (int64_t i = 0; i < lanes; ++i) to[i] = planes[i * stride + p];
            for (int64_t i = lanes; i < LANES; ++i) to[i] = 0;
        }
        return;
    }
    for (int64_t p = 0; p < size; p += LANES) {
        const int64_t at = std::min(p, size - LANES);  // the last one overlaps
        Vec block[LANES] = {};
        if (lanes == LANES) {
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) block[i] = load(planes + i * stride + at);
        } else {
            for (int64_t i = 0; i < lanes; ++i) block[i] = load(planes + i * stride + at);
        }
        turned(block);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) store(tile + place[at + i], block[i]);
    }
}

void turn_in(const float* planes, int64_t lanes, const Grid& grid, float* tile) {
    const int64_t size = grid.places.size();
    turn_in(planes, size, lanes, size, grid.places.data(), tile);
}

// The same for values that are formed on the way, some pixels of all planes at a time.
template <typename Source>
void turn_in(const Source& source, int64_t first, int64_t lanes, const Grid& grid, float* tile) {
    constexpr int64_t SOME = 16 * LANES;
    alignas(64) float pixels[LANES * SOME];
    const int64_t size = grid.places.size();
    if (source.small()) {
        source.write_planes(first, lanes, pixels);
        return turn_in(pixels, size, lanes, size, grid.places.data(), tile);
    }
    for (int64_t p = 0; p < size; p += SOME) {
        const int64_t count = std::min(SOME, size - p);
        const int64_t ahead = std::min(SOME, size - p - count);
        for (int64_t i = 0; i < lanes; ++i) {
            source.fetch((first + i) * size + p + count, ahead);
            source.write(first + i, p, count, pixels + i * SOME);
        }
        turn_in(pixels, SOME, lanes, count, grid.places.data() + p, tile);
    }
}

void turn_out(const float* tile, int64_t lanes, const Grid& grid, float* planes) {
    const int64_t size = grid.places.size();
    const int64_t* place = grid.places.data();
    if (size < LANES) {
        for (int64_t p = 0; p < size; ++p)
            for (int64_t i = 0; i < lanes; ++i) planes[i * size + p] = tile[place[p] + i];
        return;
    }
    for (int64_t p = 0; p < size; p += LANES) {
        const int64_t at = std::min(p, size - LANES);
        Vec block[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) block[i] = load(tile + place[at + i]);
        turned(block);
        if (lanes == LANES) {
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) store(planes + i * size + at, block[i]);
        } else {
            for (int64_t i = 0; i < lanes; ++i) store(planes + i * size + at, block[i]);
        }
    }
}

// One row of sums: out[j * step] = sum over a and b of weights[a][b] * in[a][j * S + b], `blocks`
// times Q of them. All counted in vectors.
typedef void (*Row)(const float* in, int64_t width, int64_t rows, const float* weights, float* out,
                    int64_t step, int64_t blocks);

template <int T, int S, int Q>
void row(const float* in, int64_t width, int64_t rows, const float* weights, float* out,
         int64_t step, int64_t blocks) {
    for (int64_t block = 0; block < blocks; ++block) {
        Vec sums[Q] = {};
        for (int64_t a = 0; a < rows; ++a) {
            const float* from = in + (a * width + block * Q * S) * LANES;
            Vec own[T];
#pragma GCC unroll 8
            for (int b = 0; b < T; ++b) own[b] = load(weights + (a * T + b) * LANES);
#pragma GCC unroll 32
            for (int i = 0; i < (Q - 1) * S + T; ++i) {
                const Vec value = load(from + i * LANES);
#pragma GCC unroll 8
                for (int b = 0; b < T; ++b)
                    if (i >= b && (i - b) % S == 0 && (i - b) / S < Q)
                        sums[(i - b) / S] += value * own[b];
            }
        }
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q) store(out + (block * Q + q) * step * LANES, sums[q]);
    }
}

// sums[b] += gradient[r][j] * in[r][j * S + b] over `rows` rows and `blocks` times Q columns.
typedef void (*Correlate)(const float* in, int64_t in_step, const float* gradient,
                          int64_t gradient_step, int64_t rows, int64_t blocks, float* sums);

template <int T, int S, int Q>
void correlate(const float* in, int64_t in_step, const float* gradient, int64_t gradient_step,
               int64_t rows, int64_t blocks, float* sums) {
    constexpr int WAYS = MANY_REGISTERS && Q > 1 ? 2 : 1;  // more sums than a product takes to finish
    Vec own[WAYS][T] = {};
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t block = 0; block < blocks; ++block) {
            const float* from = in + (r * in_step + block * Q * S) * LANES;
            const float* slope = gradient + (r * gradient_step + block * Q) * LANES;
            Vec g[Q];
#pragma GCC unroll 8
            for (int q = 0; q < Q; ++q) g[q] = load(slope + q * LANES);
#pragma GCC unroll 32
            for (int i = 0; i < (Q - 1) * S + T; ++i) {
                const Vec value = load(from + i * LANES);
#pragma GCC unroll 8
                for (int b = 0; b < T; ++b)
                    if (i >= b && (i - b) % S == 0 && (i - b) / S < Q)
                        own[(i - b) / S % WAYS][b] += value * g[(i - b) / S];
            }
        }
    for (int b = 0; b < T; ++b) {
        Vec sum = load(sums + b * LANES) + own[0][b];
        if (WAYS == 2) sum += own[WAYS - 1][b];
        store(sums + b * LANES, sum);
    }
}

template <int T, int S>
Row row_of(int64_t at_once) {
    switch (at_once) {
        case 1: return row<T, S, 1>;
        case 2: return row<T, S, 2>;
        case 4: return row<T, S, 4>;
        case 7: return row<T, S, 7>;
        default: return row<T, S, 8>;
    }
}

Row row_for(int64_t taps, int stride, int64_t at_once) {
    switch (taps) {
        case 1: return row_of<1, 1>(at_once);
        case 2: return row_of<2, 1>(at_once);
        case 3: return stride == 1 ? row_of<3, 1>(at_once) : row_of<3, 2>(at_once);
        case 4: return row_of<4, 1>(at_once);
        case 5: return stride == 1 ? row_of<5, 1>(at_once) : row_of<5, 2>(at_once);
        default: return stride == 1 ? row_of<7, 1>(at_once) : row_of<7, 2>(at_once);
    }
}

template <int T, int S>
Correlate correlate_of(int64_t at_once) {
    switch (at_once) {
        case 1: return correlate<T, S, 1>;
        case 2: return correlate<T, S, 2>;
        case 4: return correlate<T, S, 4>;
        case 7: return correlate<T, S, 7>;
        default: return correlate<T, S, 8>;
    }
}

Correlate correlate_for(int taps, int stride, int64_t at_once) {
    switch (taps) {
        case 3: return stride == 1 ? correlate_of<3, 1>(at_once) : correlate_of<3, 2>(at_once);
        case 5: return stride == 1 ? correlate_of<5, 1>(at_once) : correlate_of<5, 2>(at_once);
        default: return stride == 1 ? correlate_of<7, 1>(at_once) : correlate_of<7, 2>(at_once);
    }
}

// The weights of every block, [block][tap][lane].
Tile weights_of(const Plan& p, const float* weights) {
    Tile found(p.blocks.per_image * p.taps());
    for (int64_t block = 0; block < p.blocks.per_image; ++block)
        for (int t = 0; t < p.taps(); ++t)
            for (int i = 0; i < LANES; ++i)
                found.data[(block * p.taps() + t) * LANES + i] =
                    weights[p.blocks.channel(block, i) * p.taps() + t];
    return found;
}

// Of `count` taps from `first` on, one row each, those that lie in [0, size).
struct Inside {
    int64_t begin, end;
    Inside(int64_t first, int64_t count, int64_t size)
        : begin(std::max<int64_t>(0, -first)), end(std::min(count, size - first)) {
        end = std::max(begin, end);
    }
};

// The input's gradient of one tile, `phases` as in Plan: its weights [phase][tap][lane].
void input_gradient(const Plan& p, const float* gradient, const float* phases, float* out) {
    const Shape& s = p.s;
    for (const Phase& d : p.down)
        for (size_t b = 0; b < p.right.size(); ++b) {
            const Phase& r = p.right[b];
            const int64_t wide = r.taps.size(), tall = d.taps.size();
            const int64_t blocks = (r.count + p.right_at_once[b] - 1) / p.right_at_once[b];
            const Row work = row_for(wide, 1, p.right_at_once[b]);
            for (int64_t v = 0; v < d.count; ++v) {
                const Inside rows(v + d.reach, tall, s.out_h);
                const float* from = gradient + ((v + d.reach + rows.begin) * p.gradient.width +
                                                p.gradient.left + r.reach) * LANES;
                float* to = out + ((d.first + v * s.stride_h) * p.input_gradient.width + r.first) * LANES;
                work(from, p.gradient.width, rows.end - rows.begin,
                     phases + rows.begin * wide * LANES, to, s.stride_w, blocks);
            }
            phases += tall * wide * LANES;
        }
}

}  // namespace

bool fits_tiles(const DepthwiseShape& s) {
    if (s.kernel_w != 3 && s.kernel_w != 5 && s.kernel_w != 7) return false;
    if (s.stride_w > 2 || s.dilation_h != 1 || s.dilation_w != 1) return false;
    if (s.pad_w >= s.kernel_w || s.pad_h >= s.kernel_h) return false;
    const int64_t input = s.h * (s.w + 2 * s.pad_w), output = s.out_h * (s.out_w + 2 * s.kernel_w);
    return (2 * input + output) * LANES * 4 <= ROOM;
}

void tiles_forward(const float* x, const Normalised* in, const float* weights, float* y,
                   const DepthwiseShape& s, Moments* statistics) {
    const int64_t size = s.out_h * s.out_w;
    const Plan p(s);
    const Tile own = weights_of(p, weights);
    const Row work = row_for(s.kernel_w, s.stride_w, p.at_once);
#pragma omp parallel num_threads(team(p.work()))
    {
        const Tile input(p.input.vectors(s.h)), output(p.output.vectors(s.out_h));
#pragma omp for schedule(static)
        for (int64_t item = 0; item < p.blocks.rounds * p.blocks.per_image; ++item) {
            const int64_t round = item / p.blocks.per_image, block = item % p.blocks.per_image;
            const int64_t first = p.blocks.first(round, block), lanes = p.blocks.lanes(round, block);
            if (in)
                turn_in(*in, first, lanes, p.input, input.data);
            else
                turn_in(x + first * s.h * s.w, lanes, p.input, input.data);
            for (int64_t r = 0; r < s.out_h; ++r) {
                const int64_t top = r * s.stride_h - s.pad_h;
                const Inside rows(top, s.kernel_h, s.h);
                work(input.data + (top + rows.begin) * p.input.width * LANES, p.input.width,
                     rows.end - rows.begin,
                     own.data + (block * p.taps() + rows.begin * s.kernel_w) * LANES,
                     output.data + r * p.output.width * LANES, 1, p.out_cols / p.at_once);
            }
            turn_out(output.data, lanes, p.output, y + first * size);
            for (int64_t i = first; statistics && i < first + lanes; ++i)
                statistics[i] = moments_of(y + i * size, size);
        }
    }
}

void tiles_backward(const float* x, const Normalised* in, const float* weights, const float* dy,
                    const Slopes* slopes, float* dx, float* dweights, const DepthwiseShape& s,
                    double* sums) {
    const Plan p(s);
    const Tile own = weights_of(p, weights);
    const Blocks& b = p.blocks;
    const Correlate correlated = correlate_for(s.kernel_w, s.stride_w, p.at_once);
    const int64_t groups = std::min<int64_t>(b.rounds, 8), taps = p.taps();
    const Tile parts(groups * b.per_image * taps);
#pragma omp parallel num_threads(team(p.work()))
    {
        const Tile input(p.input.vectors(s.h)), gradient(p.gradient.vectors(s.out_h));
        const Tile output(dx ? p.input_gradient.vectors(s.h) : 0), phases(taps);
#pragma omp for schedule(static)
        for (int64_t item = 0; item < groups * b.per_image; ++item) {
            const int64_t group = item / b.per_image, block = item % b.per_image;
            float* to = phases.data;
            for (const Phase& down : p.down)
                for (const Phase& right : p.right)
                    for (int i : down.taps)
                        for (int j : right.taps) {
                            store(to, load(own.data + (block * taps + i * s.kernel_w + j) * LANES));
                            to += LANES;
                        }
            for (int64_t round = b.rounds * group / groups; round < b.rounds * (group + 1) / groups;
                 ++round) {
                const int64_t first = b.first(round, block), lanes = b.lanes(round, block);
                if (in)
                    turn_in(*in, first, lanes, p.input, input.data);
                else
                    turn_in(x + first * s.h * s.w, lanes, p.input, input.data);
                if (dy)
                    turn_in(dy + first * s.out_h * s.out_w, lanes, p.gradient, gradient.data);
                else
                    turn_in(*slopes, first, lanes, p.gradient, gradient.data);
                for (int64_t a = 0; a < s.kernel_h; ++a) {
                    // the output's rows whose tap a lies inside the plane
                    const int64_t top = a - s.pad_h;
                    const int64_t low = top < 0 ? (-top + s.stride_h - 1) / s.stride_h : 0;
                    const int64_t high = std::min(s.out_h, (s.h - top + s.stride_h - 1) / s.stride_h);
                    correlated(input.data + (low * s.stride_h + top) * p.input.width * LANES,
                               s.stride_h * p.input.width,
                               gradient.data + (low * p.gradient.width + p.gradient.left) * LANES,
                               p.gradient.width, high - low, p.out_cols / p.at_once,
                               parts.data + (item * taps + a * s.kernel_w) * LANES);
                }
                if (!dx) continue;
                input_gradient(p, gradient.data, phases.data, output.data);
                turn_out(output.data, lanes, p.input_gradient, dx + first * s.h * s.w);
                for (int64_t i = first; sums && i < first + lanes; ++i)
                    in->add_sums(dx, i, 0, s.h * s.w, sums + 2 * i);
            }
        }
    }
    std::fill(dweights, dweights + s.c * taps, 0.0f);
    for (int64_t group = 0; group < groups; ++group)
        for (int64_t block = 0; block < b.per_image; ++block)
            for (int64_t i = 0; i < b.lanes(0, block); ++i)
                for (int64_t t = 0; t < taps; ++t)
                    dweights[b.channel(block, i) * taps + t] +=
                        parts.data[((group * b.per_image + block) * taps + t) * LANES + i];
}
