// Depthwise convolution in tiles: as many planes as a vector has lanes, turned so that a vector
// holds one pixel of each of them.
//
// Every load is then whole and aligned, nothing outside the planes' rows is computed, and small
// planes fill the vectors as well as large ones. Rows that lie outside a plane are left out;
// columns outside are zeros in the tile. A tile holds a band of rows, so that what is read, computed
// and written of it stays in the cache; bands share the rows between them. Sums have the order of
// the taps, and those of the weights' gradient are added in bands and groups of images that depend on
// the shape only: results do not depend on the number of threads.

#include <algorithm>

#include "depthwise.h"
#include "depthwise_rows.h"
#include "turned_planes.h"

namespace {

typedef DepthwiseShape Shape;

constexpr int64_t ROOM = 3 << 20;  // bytes that one row of outputs may ask for

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

struct Plan {
    Shape s;
    Blocks blocks;
    int64_t at_once, out_cols;  // of an output row, rounded up
    std::vector<Phase> down, right;
    std::vector<int64_t> right_at_once;
    int64_t gradient_left = 0, gradient_width, input_gradient_width;
    int64_t rows;  // of the output in a band

    Plan(const Shape& s, bool backward)
        : s(s), blocks(s), at_once(outputs_at_once(s.out_w)),
          out_cols(round_up(s.out_w, at_once)), down(phases(s.h, s.kernel_h, s.stride_h, s.pad_h)),
          right(phases(s.w, s.kernel_w, s.stride_w, s.pad_w)), gradient_width(out_cols),
          input_gradient_width(s.w) {
        for (const Phase& p : right) {
            const int64_t q = outputs_at_once(p.count), whole = round_up(p.count, q);
            right_at_once.push_back(q);
            gradient_left = std::max(gradient_left, -p.reach);
            gradient_width = std::max(gradient_width, whole + p.reach + (int64_t)p.taps.size() - 1);
            input_gradient_width =
                std::max(input_gradient_width, p.first + s.stride_w * (whole - 1) + 1);
        }
        gradient_width += gradient_left;
        const int64_t vectors = backward ? s.stride_h * (input_width() + input_gradient_width) + gradient_width
                                         : s.stride_h * input_width() + out_cols;
        rows = std::clamp<int64_t>(BAND_BYTES / (vectors * LANES * 4), 1, s.out_h);
        rows = (s.out_h + bands() - 1) / bands();  // else the last one may be a row or two
    }
    static std::vector<Phase> phases(int64_t size, int kernel, int stride, int pad) {
        std::vector<Phase> found;
        for (int at = 0; at < stride; ++at) found.emplace_back(size, kernel, stride, pad, at);
        return found;
    }
    int taps() const { return s.kernel_h * s.kernel_w; }
    int64_t work() const { return 2 * s.n * s.c * s.out_h * out_cols * taps(); }
    int64_t bands() const { return (s.out_h + rows - 1) / rows; }
    int64_t input_width() const {
        return std::max(s.pad_w + s.w, (out_cols - 1) * s.stride_w + s.kernel_w);
    }
    Grid input() const {
        const int64_t most = std::min(s.h, (rows - 1) * s.stride_h + s.kernel_h);
        return {most, s.w, s.pad_w, input_width()};
    }
    Grid output() const { return {rows, s.out_w, 0, out_cols}; }
    Grid gradient() const {
        const int64_t most = std::min<int64_t>(s.out_h, rows + s.kernel_h);
        return {most, s.out_w, gradient_left, gradient_width};
    }
    Grid input_gradient() const {
        const int64_t rest = std::max<int64_t>(0, s.h + s.pad_h - s.out_h * s.stride_h);
        return {std::min(s.h, rows * s.stride_h + rest), s.w, 0, input_gradient_width};
    }
};

// A band: which rows of the output, and of the input those that they read; backward also the rows of
// the input that none of a later band reads, and the first row of the output that reads those.
struct Band {
    int64_t begin, end, top, bottom, first, last, readers;
    Band(const Plan& p, int64_t number) {
        const Shape& s = p.s;
        begin = number * p.rows, end = std::min(s.out_h, begin + p.rows);
        top = std::clamp<int64_t>(begin * s.stride_h - s.pad_h, 0, s.h);
        bottom = std::clamp<int64_t>((end - 1) * s.stride_h - s.pad_h + s.kernel_h, top, s.h);
        first = begin == 0 ? 0 : top;
        last = end == s.out_h ? s.h : std::clamp<int64_t>(end * s.stride_h - s.pad_h, 0, s.h);
        const int64_t tap = first + s.pad_h - s.kernel_h + 1;  // the first pixel of its first reader
        readers = std::clamp<int64_t>((tap + s.stride_h - 1) / s.stride_h, 0, begin);
    }
};

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

// Rows [first, last) of the input's gradient, `phases` as in Plan: its weights [phase][tap][lane].
void input_gradient(const Plan& p, const Rows& gradient, const float* phases, int64_t first,
                    int64_t last, float* out) {
    const Shape& s = p.s;
    const auto after = [&](int64_t row, const Phase& d) {  // which of its rows comes at `row` or after
        return std::max<int64_t>(0, (row - d.first + s.stride_h - 1) / s.stride_h);
    };
    for (const Phase& d : p.down)
        for (size_t b = 0; b < p.right.size(); ++b) {
            const Phase& r = p.right[b];
            const int64_t wide = r.taps.size(), tall = d.taps.size();
            const int64_t blocks = (r.count + p.right_at_once[b] - 1) / p.right_at_once[b];
            const Row work = row_for(wide, 1, p.right_at_once[b]);
            for (int64_t v = after(first, d); v < std::min(d.count, after(last, d)); ++v) {
                const Inside rows(v + d.reach, tall, s.out_h);
                const float* from = gradient.row(v + d.reach + rows.begin) +
                                    (p.gradient_left + r.reach) * LANES;
                const int64_t to = (d.first + v * s.stride_h - first) * p.input_gradient_width;
                work(from, p.gradient_width, rows.end - rows.begin,
                     phases + rows.begin * wide * LANES, out + (to + r.first) * LANES, s.stride_w,
                     blocks);
            }
            phases += tall * wide * LANES;
        }
}

}  // namespace

bool fits_tiles(const DepthwiseShape& s) {
    if (s.kernel_w != 3 && s.kernel_w != 5 && s.kernel_w != 7) return false;
    if (s.stride_w > 2 || s.dilation_h != 1 || s.dilation_w != 1) return false;
    if (s.pad_w >= s.kernel_w || s.pad_h >= s.kernel_h) return false;
    const int64_t rows = 2 * (s.stride_h + s.kernel_h);  // of a band of one, backward
    return rows * (s.w + 2 * s.kernel_w) * LANES * 4 <= ROOM;
}

void tiles_forward(const float* x, const Normalised* in, const float* weights, float* y,
                   const DepthwiseShape& s, Moments* statistics) {
    const int64_t size = s.out_h * s.out_w;
    const Plan p(s, false);
    const Grid inputs = p.input(), outputs = p.output();
    const Tile own = weights_of(p, weights);
    const Row work = row_for(s.kernel_w, s.stride_w, p.at_once);
#pragma omp parallel num_threads(team(p.work()))
    {
        Rows input(inputs);
        const Tile output(outputs.rows * outputs.width);
#pragma omp for schedule(static)
        for (int64_t item = 0; item < p.blocks.rounds * p.blocks.per_image; ++item) {
            const int64_t round = item / p.blocks.per_image, block = item % p.blocks.per_image;
            const int64_t first = p.blocks.first(round, block), lanes = p.blocks.lanes(round, block);
            input.clear();
            for (int64_t number = 0; number < p.bands(); ++number) {
                const Band band(p, number);
                input.take(band.top, band.bottom, [&](int64_t row, int64_t count, float* to) {
                    turn_in(x, in, first, s.h * s.w, lanes, inputs, row, count, to);
                });
                for (int64_t r = band.begin; r < band.end; ++r) {
                    const int64_t top = r * s.stride_h - s.pad_h;
                    const Inside rows(top, s.kernel_h, s.h);
                    work(input.row(top + rows.begin), inputs.width, rows.end - rows.begin,
                         own.data + (block * p.taps() + rows.begin * s.kernel_w) * LANES,
                         output.data + (r - band.begin) * outputs.width * LANES, 1,
                         p.out_cols / p.at_once);
                }
                const int64_t rows = band.end - band.begin;
                if (statistics) {
                    Moments found[LANES];
                    tile_moments(output.data, lanes, outputs, rows, found);
                    for (int64_t i = 0; i < lanes; ++i) statistics[first + i].add(found[i]);
                }
                turn_out(output.data, lanes, outputs, band.begin, rows, size, y + first * size);
            }
        }
    }
}

void tiles_backward(const float* x, const Normalised* in, const float* weights, const float* dy,
                    const Slopes* slopes, float* dx, float* dweights, const DepthwiseShape& s,
                    double* sums) {
    const int64_t size = s.h * s.w, out_size = s.out_h * s.out_w;
    const Plan p(s, true);
    const Grid inputs = p.input(), gradients = p.gradient(), outputs = p.input_gradient();
    const Tile own = weights_of(p, weights);
    const Blocks& b = p.blocks;
    const Correlate correlated = correlate_for(s.kernel_w, s.stride_w, p.at_once);
    const int64_t groups = std::min<int64_t>(b.rounds, 8), taps = p.taps();
    const Tile parts(groups * b.per_image * taps);
#pragma omp parallel num_threads(team(p.work()))
    {
        Rows input(inputs), gradient(gradients);
        const Tile output(dx ? outputs.rows * outputs.width : 0), phases(taps);
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
            const int64_t last = b.rounds * (group + 1) / groups;
            for (int64_t round = b.rounds * group / groups; round < last; ++round) {
                const int64_t first = b.first(round, block), lanes = b.lanes(round, block);
                input.clear(), gradient.clear();
                for (int64_t number = 0; number < p.bands(); ++number) {
                    const Band band(p, number);
                    input.take(band.top, band.bottom, [&](int64_t row, int64_t count, float* rows) {
                        turn_in(x, in, first, size, lanes, inputs, row, count, rows);
                    });
                    gradient.take(band.readers, band.end, [&](int64_t row, int64_t count, float* rows) {
                        turn_in(dy, slopes, first, out_size, lanes, gradients, row, count, rows);
                    });
                    for (int64_t a = 0; a < s.kernel_h; ++a) {
                        // the band's rows whose tap a lies inside the plane
                        const int64_t top = a - s.pad_h;
                        const int64_t inside = top < 0 ? (-top + s.stride_h - 1) / s.stride_h : 0;
                        const int64_t low = std::max(band.begin, inside);
                        const int64_t high =
                            std::min(band.end, (s.h - top + s.stride_h - 1) / s.stride_h);
                        if (low >= high) continue;
                        correlated(input.row(low * s.stride_h + top), s.stride_h * inputs.width,
                                   gradient.row(low) + p.gradient_left * LANES, p.gradient_width,
                                   high - low, p.out_cols / p.at_once,
                                   parts.data + (item * taps + a * s.kernel_w) * LANES);
                    }
                    const int64_t rows = band.last - band.first;
                    if (!dx || rows == 0) continue;
                    input_gradient(p, gradient, phases.data, band.first, band.last, output.data);
                    turn_out(output.data, lanes, outputs, band.first, rows, size, dx + first * size);
                    for (int64_t i = first; sums && i < first + lanes; ++i)
                        in->add_sums(dx, i, band.first * s.w, rows * s.w, sums + 2 * i);
                }
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
