// Convolution over all channels as a matrix product: float32, NCHW, without bias or groups.
//
// The columns of columns.h are cut into panels, which are multiplied tile by tile with the weights,
// packed so that a tile reads them in order. The gradient of the weights turns the pixels of one
// side, so that it is a product of the same form; that of the input is a convolution of the output's
// gradient with the turned kernel, one for each phase of the stride. Every sum has a fixed order:
// results do not depend on the number of threads.

#include <algorithm>

#include "columns.h"
#include "norm.h"
#include "products.h"
#include "row_sums.h"

namespace {

struct Shape {
    int64_t n, in, h, w, out, out_h, out_w;
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

constexpr int64_t DEPTH = 512;  // about so many rows are gathered at once: they stay in the cache
// Floats from one gathered row of pixels to the next: with a power of two the rows would share a few
// sets of the first cache, which then holds no panel of them.
constexpr int64_t ROW = CHUNK + 16;

// output = weights * input, for all columns.
template <typename Source>
void multiply(const Packed& weights, const Source& input, const Places& output, int64_t columns) {
    const int64_t panels = (columns + PANEL - 1) / PANEL, depth = weights.depth;
    const int64_t unit = input.unit() * TOGETHER, step = std::max<int64_t>(1, DEPTH / unit) * unit;
    const int threads = team(weights.rows * depth * columns);
    // Few panels are cut across, for all threads to have some.
    const int64_t tiles = weights.tiles(), height = weights.height;
    const int64_t cuts = panels >= 4 * threads || threads == 1
                             ? 1
                             : std::min((tiles + 3) / 4, (4 * threads + panels - 1) / panels);
#pragma omp parallel num_threads(threads)
    {
        Columns own(std::min(step, depth), PANEL);
        const Scratch gathered = scratch(std::min(step, depth) * PANEL);
        const Scratch result = scratch(tiles * height * PANEL);
#pragma omp for schedule(static)
        for (int64_t item = 0; item < panels * cuts; ++item) {
            const int64_t first = item / cuts * PANEL, cut = item % cuts;
            const int64_t begin = tiles * cut / cuts, end = tiles * (cut + 1) / cuts;
            const int64_t count = std::min<int64_t>(PANEL, columns - first);
            float* place = output.direct(first, PANEL, columns);
            const float* source = input.direct(first, PANEL, columns);
            float* to = place ? place : result.get();
            const int64_t to_step = place ? output.plane : PANEL;
            for (int64_t k = 0; k < depth; k += step) {
                const int64_t some = std::min(step, depth - k);
                if (!source) input.gather(k, some, first, count, gathered.get(), PANEL);
                if (source)
                    own.take(source + k * input.step(), some, input.step(), PANEL, true);
                else
                    own.take(gathered.get(), some, PANEL, PANEL, false);
                own.multiply(weights, k, 0, begin, end, to, to_step);
            }
            if (!place) {
                const int64_t row = begin * height, last = std::min(end * height, weights.rows);
                output.scatter(to + row * PANEL, PANEL, row, last - row, first, count);
            }
        }
    }
}

// A side of the weights' gradient: rows of pixels, in place or gathered.
template <typename Source>
struct Side {
    const Source& source;
    Scratch room;
    const float* data = nullptr;
    int64_t stride = ROW;

    Side(const Source& source, int64_t rows) : source(source), room(scratch(rows * ROW)) {}
    void read(int64_t row, int64_t rows, int64_t first, int64_t columns) {
        const float* place = source.direct(first, CHUNK, columns);
        data = place ? place + row * source.step() : room.get();
        stride = place ? source.step() : ROW;
        if (!place) {
            const int64_t count = std::min(CHUNK, columns - first);
            source.gather(row, rows, first, count, room.get(), ROW);
        }
    }
};

// Into how many groups chunks of columns are cut, for as many sums of `floats` values: 4 MiB of them
// at most, as each is cleared, and read once more.
int64_t groups_of(int64_t chunks, int64_t floats) {
    return std::min({chunks, std::max<int64_t>(1, (1 << 20) / floats), (int64_t)32});
}

// sums (a's rows, b's rows) = a * b^T over all columns; `written(sums, groups)` adds the groups
// of columns, which depend on the shape only.
template <typename A, typename B, typename Write>
void outer_product(const A& a, const B& b, int64_t columns, const Write& written) {
    const int64_t rows = a.rows(), room = round_up<int64_t>(b.rows(), LANES);
    const int64_t chunks = (columns + CHUNK - 1) / CHUNK, groups = groups_of(chunks, rows * room);
    const int threads = team(rows * b.rows() * columns);
    const int64_t units = rows / a.unit(), tall = std::max<int64_t>(1, rows / 48);
    const int64_t wanted = threads == 1 ? 1 : (4 * threads + groups - 1) / groups;
    const int64_t blocks = std::min({wanted, tall, units});
    const Scratch parts = scratch(groups * rows * room);
#pragma omp parallel num_threads(threads)
    {
        Side<A> left(a, (units + blocks - 1) / blocks * a.unit());
        Side<B> right(b, b.rows());
        Outer products((units + blocks - 1) / blocks * a.unit());
#pragma omp for schedule(static)
        for (int64_t item = 0; item < groups * blocks; ++item) {
            const int64_t group = item / blocks, block = item % blocks;
            const int64_t from = units * block / blocks * a.unit();
            const int64_t some = units * (block + 1) / blocks * a.unit() - from;
            float* sums = parts.get() + (group * rows + from) * room;
            std::fill(sums, sums + some * room, 0.0f);
            for (int64_t k = chunks * group / groups; k < chunks * (group + 1) / groups; ++k) {
                left.read(from, some, k * CHUNK, columns);
                right.read(0, b.rows(), k * CHUNK, columns);
                products.add(left.data, some, left.stride, right.data, b.rows(), right.stride, sums,
                             room);
            }
        }
    }
    written(parts.get(), groups);
}

// dweights (rows, depth) from sums (group, rows, room).
void add_groups(const float* parts, int64_t groups, int64_t room, int64_t rows, int64_t depth,
                float* dweights) {
    for (int64_t r = 0; r < rows; ++r) {
        float* __restrict to = dweights + r * depth;
        std::copy(parts + r * room, parts + r * room + depth, to);
        for (int64_t g = 1; g < groups; ++g) {
            const float* __restrict part = parts + (g * rows + r) * room;
            for (int64_t k = 0; k < depth; ++k) to[k] += part[k];
        }
    }
}

// dweights (rows, depth) from sums (group, depth, room): turned.
void add_groups_turned(const float* parts, int64_t groups, int64_t room, int64_t rows,
                       int64_t depth, float* dweights) {
#pragma omp parallel for schedule(static) num_threads(team(4 * groups * depth * rows))
    for (int64_t k = 0; k < depth; k += LANES)
        for (int64_t r = 0; r < rows; r += LANES) {
            Vec block[LANES] = {};
            const int64_t some = std::min<int64_t>(LANES, depth - k);
            for (int64_t i = 0; i < some; ++i)
                for (int64_t g = 0; g < groups; ++g)
                    block[i] += load(parts + (g * depth + k + i) * room + r);
            turned(block);
            for (int64_t i = 0; i < std::min<int64_t>(LANES, rows - r); ++i)
                std::memcpy(dweights + (r + i) * depth + k, &block[i], some * 4);
        }
}

// Whether the weights' gradient turns the pixels of the input, not of the output's gradient. The side
// that is turned comes in whole vectors: the one that wastes less, else the one with fewer rows.
bool turns_input(int64_t outs, int64_t ins) {
    const int64_t input = round_up<int64_t>(ins, LANES) * outs;
    const int64_t gradient = round_up<int64_t>(outs, LANES) * ins;
    return input != gradient ? input < gradient : ins < outs;
}

// How many sums it needs, those of a side in whole vectors.
int64_t sums_of(int64_t outs, int64_t ins) {
    return std::min(outs * round_up<int64_t>(ins, LANES), ins * round_up<int64_t>(outs, LANES));
}

// dweights (outs, ins) from the sums of groups of columns.
void add_groups_of(const float* parts, int64_t groups, int64_t outs, int64_t ins, float* dweights) {
    if (turns_input(outs, ins))
        add_groups(parts, groups, round_up<int64_t>(ins, LANES), outs, ins, dweights);
    else
        add_groups_turned(parts, groups, round_up<int64_t>(outs, LANES), outs, ins, dweights);
}

template <typename Gradient, typename Source>
void weights_gradient(const Gradient& dy, const Source& input, int64_t columns, float* dweights) {
    const int64_t outs = dy.rows(), ins = input.rows();
    const auto written = [&](const float* parts, int64_t groups) {
        add_groups_of(parts, groups, outs, ins, dweights);
    };
    if (turns_input(outs, ins))
        outer_product(dy, input, columns, written);
    else
        outer_product(input, dy, columns, written);
}

// How the columns are cut for sums over all of them: groups of chunks, which depend on the shape
// only. A group's sums have at most `floats` values.
struct Cut {
    int64_t columns, chunks, groups;
    Cut(int64_t columns, int64_t floats) : columns(columns), chunks((columns + CHUNK - 1) / CHUNK) {
        groups = groups_of(chunks, floats);
    }
    int64_t begin(int64_t group) const { return chunks * group / groups; }
    int64_t count(int64_t chunk) const { return std::min(CHUNK, columns - chunk * CHUNK); }
};

// Both gradients of a 1x1 convolution in one pass over the output's gradient: `dy` is read once for
// each chunk of pixels. `sums` (groups, channels, 2): what a normalised input sums over them.
template <typename Source, typename Input>
void pointwise_gradients(const Source& dy, const Input& input, const float* weights, float* dx,
                         float* dweights, const Cut& cut, std::vector<double>& sums) {
    const int64_t rows = input.channels, outs = dy.rows(), floats = sums_of(outs, rows);
    const bool input_turned = turns_input(outs, rows);
    const int64_t columns = cut.columns, groups = cut.groups;
    const Packed own(weights, rows, 1, outs, rows, {0});
    const Places places{dx, rows, input.size, 1, input.size, 0, input.size, 1};
    const int threads = team(2 * rows * outs * columns);
    const auto sums_at = [&](int64_t group) { return sums.data() + sums.size() / groups * group; };
    if (groups < threads) {  // one after the other, each cut for all threads; the same sums
        weights_gradient(dy, input, columns, dweights);
        multiply(own, dy, places, columns);
        GradientSums of_input(rows);
        for (int64_t group = 0; group < groups; ++group) {
            for (int64_t k = cut.begin(group); k < cut.begin(group + 1); ++k)
                of_input.add(input, dx, k * CHUNK, cut.count(k), sums_at(group));
            of_input.finish(sums_at(group));
        }
        return;
    }
    const Scratch parts = scratch(groups * floats);
#pragma omp parallel num_threads(threads)
    {
        Side<Input> left(input, rows);
        Side<Source> right(dy, outs);
        Outer products(input_turned ? outs : rows);
        Columns gradient(outs, CHUNK);
        const Scratch result = scratch(own.tiles() * own.height * PANEL);
        GradientSums of_input(rows);
#pragma omp for schedule(static)
        for (int64_t group = 0; group < groups; ++group) {
            float* part = parts.get() + group * floats;
            std::fill(part, part + floats, 0.0f);
            for (int64_t k = cut.begin(group); k < cut.begin(group + 1); ++k) {
                left.read(0, rows, k * CHUNK, columns);
                right.read(0, outs, k * CHUNK, columns);
                if (input_turned)
                    products.add(right.data, outs, right.stride, left.data, rows, left.stride, part,
                                 floats / outs);
                else
                    products.add(left.data, rows, left.stride, right.data, outs, right.stride, part,
                                 floats / rows);
                gradient.take(right.data, outs, right.stride, CHUNK, false);
                for (int64_t p = 0; p < CHUNK && k * CHUNK + p < columns; p += PANEL) {
                    const int64_t first = k * CHUNK + p, count = std::min<int64_t>(PANEL, columns - first);
                    float* place = places.direct(first, PANEL, columns);
                    float* to = place ? place : result.get();
                    const int64_t step = place ? places.plane : PANEL;
                    gradient.multiply(own, 0, p / PANEL, 0, own.tiles(), to, step);
                    if (!place) places.scatter(to, PANEL, 0, rows, first, count);
                }
                of_input.add(input, dx, k * CHUNK, cut.count(k), sums_at(group));
            }
            of_input.finish(sums_at(group));
        }
    }
    add_groups_of(parts.get(), groups, outs, rows, dweights);
}

// A 1x1 convolution and the moments of its output, (groups, rows), taken while a chunk of it is in
// the cache.
template <typename Source>
std::vector<Moments> pointwise_with_moments(const Packed& own, const Source& input,
                                            const Places& places, const Cut& cut) {
    const int64_t rows = own.rows, depth = own.depth, columns = cut.columns;
    std::vector<Moments> found(cut.groups * rows);
    const int threads = team(rows * depth * columns);
    const bool few = cut.groups < threads;
    if (few) multiply(own, input, places, columns);  // cut for all threads; the same values
#pragma omp parallel num_threads(few ? 1 : threads)
    {
        Side<Source> right(input, few ? 0 : depth);
        Columns taken(few ? 0 : std::min(DEPTH, depth), CHUNK);
        const Scratch result = scratch(own.tiles() * own.height * ROW);
        RowMoments moments(rows);
#pragma omp for schedule(static)
        for (int64_t group = 0; group < cut.groups; ++group) {
            for (int64_t k = cut.begin(group); k < cut.begin(group + 1); ++k) {
                const int64_t first = k * CHUNK, count = cut.count(k);
                float* place = places.direct(first, CHUNK, columns);
                float* to = place ? place : result.get();
                const int64_t step = place ? places.plane : ROW;
                if (few) {
                    const Pixels output{places.data, rows, places.plane};
                    if (!place) output.gather(0, rows, first, count, to, ROW);
                } else {
                    right.read(0, depth, first, columns);
                    for (int64_t d = 0; d < depth; d += DEPTH) {
                        taken.take(right.data + d * right.stride, std::min(DEPTH, depth - d),
                                   right.stride, count, false);
                        for (int64_t p = 0; p < count; p += PANEL)
                            taken.multiply(own, d, p / PANEL, 0, own.tiles(), to + p, step);
                    }
                    if (!place) places.scatter(to, ROW, 0, rows, first, count);
                }
                moments.add(to, step, count, &found[group * rows]);
            }
            moments.finish(&found[group * rows]);
        }
    }
    return found;
}

bool is_pointwise(const Shape& s) {
    return s.kernel_h == 1 && s.kernel_w == 1 && s.stride_h == 1 && s.stride_w == 1 &&
           s.pad_h == 0 && s.pad_w == 0;
}

Taps taps_of(const float* x, const Shape& s) {
    return {x, s.in, s.h, s.w, s.out_h, s.out_w, {s.kernel_h, s.stride_h, s.dilation_h, s.pad_h},
            {s.kernel_w, s.stride_w, s.dilation_w, s.pad_w}};
}

// The pixels of one phase of the input along an axis, and which taps reach them.
struct Phase {
    int64_t first, count;          // pixels first, first + stride, ...
    std::vector<int64_t> taps;     // last to first, as the turned kernel has them
    Taps::Axis axis;               // how they read the output's gradient

    Phase(int64_t size, int64_t kernel, int64_t stride, int64_t pad, int64_t dilation, int64_t at) {
        first = ((at - pad) % stride + stride) % stride;
        count = size > first ? (size - first + stride - 1) / stride : 0;
        for (int64_t a = kernel; a-- > 0;)
            if (a * dilation % stride == at) taps.push_back(a);
        const int64_t reach = taps.empty() ? 0 : (first + pad - taps[0] * dilation) / stride;
        const int64_t apart = taps.size() < 2 ? 1 : (taps[0] - taps[1]) * dilation / stride;
        axis = {(int64_t)taps.size(), 1, apart, -reach};
    }
};

void input_gradient(const float* weights, const float* dy, float* dx, const Shape& s) {
    const int64_t taps = s.kernel_h * s.kernel_w;
    std::vector<Phase> down, right;
    for (int a = 0; a < s.stride_h; ++a)
        down.emplace_back(s.h, s.kernel_h, s.stride_h, s.pad_h, s.dilation_h, a);
    for (int b = 0; b < s.stride_w; ++b)
        right.emplace_back(s.w, s.kernel_w, s.stride_w, s.pad_w, s.dilation_w, b);
    bool reached = true;
    for (const auto& phases : {down, right})
        for (const Phase& phase : phases) reached = reached && !phase.taps.empty();
    if (!reached) std::fill(dx, dx + s.n * s.in * s.h * s.w, 0.0f);
    for (const Phase& p : down)
        for (const Phase& q : right) {
            std::vector<int64_t> offsets;
            for (int64_t a : p.taps)
                for (int64_t b : q.taps) offsets.push_back(a * s.kernel_w + b);
            if (offsets.empty() || p.count * q.count == 0) continue;
            const Packed own(weights, s.in, taps, s.out, s.in * taps, offsets);
            const Taps gradient{dy, s.out, s.out_h, s.out_w, p.count, q.count, p.axis, q.axis};
            const Places pixels{dx, s.in, s.h * s.w, p.count, q.count, p.first * s.w + q.first,
                                s.stride_h * s.w, s.stride_w};
            multiply(own, gradient, pixels, s.n * p.count * q.count);
        }
}

std::vector<int64_t> counted(int64_t count) {
    std::vector<int64_t> numbers(count);
    for (int64_t i = 0; i < count; ++i) numbers[i] = i;
    return numbers;
}

}  // namespace

extern "C" {

// y (n, out, out_h, out_w) of x (n, in, h, w) and weights (out, in, kernel_h, kernel_w).
void dense_forward(const float* x, const float* weights, float* y, const Shape* shape) {
    const Shape& s = *shape;
    const int64_t size = s.out_h * s.out_w, taps = s.kernel_h * s.kernel_w;
    const Packed own(weights, s.out, s.in * taps, s.in, taps, counted(taps));
    const Places places{y, s.out, size, s.out_h, s.out_w, 0, s.out_w, 1};
    if (is_pointwise(s))
        multiply(own, Pixels{x, s.in, size}, places, s.n * size);
    else
        multiply(own, taps_of(x, s), places, s.n * size);
}

// Gradients of x (null: not wanted) and of the weights (null: not wanted).
void dense_backward(const float* x, const float* weights, const float* dy, float* dx,
                    float* dweights, const Shape* shape) {
    const Shape& s = *shape;
    const int64_t size = s.out_h * s.out_w;
    const Pixels gradient{dy, s.out, size};
    if (dweights && is_pointwise(s))
        weights_gradient(gradient, Pixels{x, s.in, size}, s.n * size, dweights);
    else if (dweights)
        weights_gradient(gradient, taps_of(x, s), s.n * size, dweights);
    if (!dx) return;
    if (is_pointwise(s)) {
        const Packed own(weights, s.in, 1, s.out, s.in, {0});
        const Places places{dx, s.in, size, s.h, s.w, 0, s.w, 1};
        multiply(own, gradient, places, s.n * size);
    } else {
        input_gradient(weights, dy, dx, s);
    }
}

// A convolution (x -> y) and the statistics of the normalisation behind it. With an `in`, x is what
// another normalisation has yet to make the input of.
void dense_norm_forward(const float* x, const float* in_gamma, const float* in_beta,
                        const float* in_mean, const float* in_inverse, const float* weights,
                        float* running_mean, float* running_variance, float* y, float* mean,
                        float* inverse, const Shape* shape, const NormShape* norm,
                        const NormShape* in) {
    const Shape& s = *shape;
    const Given given{x, in, in_gamma, in_beta, in_mean, in_inverse};
    const NormState state{running_mean, running_variance, mean, inverse};
    const int64_t size = s.h * s.w;
    if (!is_pointwise(s) || size < LANES) {
        dense_forward(Whole(given).data, weights, y, shape);
        return settle(planes_moments(y, *norm), norm->n, *norm, state);
    }
    const Packed own(weights, s.out, s.in, s.in, 1, {0});
    const Places places{y, s.out, size, s.h, s.w, 0, s.w, 1};
    const Cut cut(s.n * size, s.out);
    settle(in ? pointwise_with_moments(own, given.normalised(), places, cut)
              : pointwise_with_moments(own, Pixels{x, s.in, size}, places, cut),
           cut.groups, *norm, state);
}

// All gradients from `dz`, that of what the normalisation gives, and from those of its gamma and
// beta, which come with it. With an `in`, dx is the gradient of what that gives, and in_dgamma and
// in_dbeta go with it; dx null: none of them is wanted.
void dense_norm_backward(const float* x, const float* in_gamma, const float* in_beta,
                         const float* in_mean, const float* in_inverse, const float* weights,
                         const float* gamma, const float* beta, const float* y, const float* mean,
                         const float* inverse, const float* dz, const float* dgamma,
                         const float* dbeta, float* dx, float* dweights, float* in_dgamma,
                         float* in_dbeta, const Shape* shape, const NormShape* norm,
                         const NormShape* in) {
    const Shape& s = *shape;
    const Given given{x, in, in_gamma, in_beta, in_mean, in_inverse};
    const Normalised output(y, *norm, gamma, beta, mean, inverse);
    const Slopes slopes(output, norm->n, dz, inverse, dgamma, dbeta);
    const int64_t size = s.h * s.w;
    if (dx && is_pointwise(s) && (!in || size >= LANES)) {
        const Cut cut(s.n * size, sums_of(s.out, s.in));
        std::vector<double> sums(in ? 2 * cut.groups * s.in : 0);
        if (!in)
            return pointwise_gradients(slopes, Pixels{x, s.in, size}, weights, dx, dweights, cut, sums);
        pointwise_gradients(slopes, given.normalised(), weights, dx, dweights, cut, sums);
        return settle_sums(sums.data(), cut.groups, s.in, in_inverse, in_dgamma, in_dbeta);
    }
    const Scratch dy = scratch(norm->n * norm->c * norm->size);
    slopes.write_all(norm->n, dy.get());
    dense_backward(Whole(given).data, weights, dy.get(), dx, dweights, shape);
    if (in && dx) norm_sums(x, in_gamma, in_beta, in_mean, in_inverse, dx, in_dgamma, in_dbeta, in);
}

}  // extern "C"
