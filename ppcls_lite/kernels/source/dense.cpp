// Convolution over all channels as a matrix product: float32, NCHW, without bias or groups.
//
// Meant for 1x1 kernels, which are most of a mobile network's arithmetic, and for the first layer
// with its three channels. The pixels of all images are one long row of columns, cut into panels;
// a panel is read in place where it lies within an image, else gathered into scratch memory (also
// for larger kernels: one row for each channel and tap). A panel is multiplied tile by tile with
// the weights, which are packed so that a tile reads them in order. Every sum has a fixed order:
// results do not depend on the number of threads.

#include <algorithm>

#include "vectors.h"

namespace {

struct Shape {
    int64_t n, in, h, w, out, out_h, out_w;
    int kernel, stride_h, stride_w, pad;
};

constexpr int TILE_ROWS = 6;
constexpr int TILE_VECS = MANY_REGISTERS ? 4 : 2;
constexpr int PANEL = TILE_VECS * LANES;

// Columns [first, first + count) of a batch of planes: row k of column g is pixel g % size of
// channel k of image g / size.
struct Columns {
    const float* data;
    int64_t channels, size;

    bool in_one_image(int64_t first, int64_t count) const {
        return first % size + count <= size;
    }
    const float* at(int64_t first) const {
        return data + first / size * channels * size + first % size;
    }
    // Gather `rows` channels from `row` on; columns past `count` are zero up to `stride`.
    void gather(int64_t row, int64_t rows, int64_t first, int64_t count, float* to,
                int64_t stride) const {
        for (int64_t done = 0; done < count;) {
            const int64_t piece = std::min(count - done, size - (first + done) % size);
            const float* from = at(first + done) + row * size;
            for (int64_t k = 0; k < rows; ++k)
                for (int64_t i = 0; i < piece; ++i) to[k * stride + done + i] = from[k * size + i];
            done += piece;
        }
        for (int64_t k = 0; k < rows && count < stride; ++k)
            std::fill(to + k * stride + count, to + (k + 1) * stride, 0.0f);
    }
};

// The same for the pixels that a kernel larger than 1x1, or a stride, reads.
void gather_taps(const float* x, const Shape& s, int64_t first, int64_t count, float* to,
                 int64_t stride) {
    const int64_t size = s.out_h * s.out_w;
    for (int64_t done = 0; done < count;) {
        const int64_t g = (first + done) % size, row = g / s.out_w, col = g % s.out_w;
        const int64_t piece = std::min(count - done, s.out_w - col);
        const float* image = x + (first + done) / size * s.in * s.h * s.w;
        float* place = to + done;
        for (int64_t c = 0; c < s.in; ++c)
            for (int a = 0; a < s.kernel; ++a)
                for (int b = 0; b < s.kernel; ++b, place += stride) {
                    const int64_t i = row * s.stride_h + a - s.pad;
                    const int64_t start = col * s.stride_w + b - s.pad;  // may lie outside
                    int64_t low = 0, high = 0;                          // inside the image
                    if (i >= 0 && i < s.h) {
                        low = std::max<int64_t>(0, (s.stride_w - 1 - start) / s.stride_w);
                        high = (s.w - start + s.stride_w - 1) / s.stride_w;
                        low = std::min(low, piece);
                        high = std::max(low, std::min(high, piece));
                    }
                    const float* __restrict from = image + c * s.h * s.w;
                    const int64_t at = i * s.w + start;
                    float* __restrict row_of_tap = place;
                    std::fill(row_of_tap, row_of_tap + low, 0.0f);
                    if (s.stride_w == 2)
                        take_every_second(from + (at + 2 * low), row_of_tap + low, high - low);
                    else
                        for (int64_t j = low; j < high; ++j)
                            row_of_tap[j] = from[at + s.stride_w * j];
                    std::fill(row_of_tap + high, row_of_tap + piece, 0.0f);
                }
        done += piece;
    }
    for (int64_t k = 0; k < s.in * s.kernel * s.kernel && count < stride; ++k)
        std::fill(to + k * stride + count, to + (k + 1) * stride, 0.0f);
}

// (rows, depth) as [tile][depth][TILE_ROWS], rows past the end zero.
std::vector<float> packed(const float* matrix, int64_t rows, int64_t depth, int64_t row_step,
                          int64_t depth_step) {
    std::vector<float> result(round_up<int64_t>(rows, TILE_ROWS) * depth);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t k = 0; k < depth; ++k)
            result[(r / TILE_ROWS * depth + k) * TILE_ROWS + r % TILE_ROWS] =
                matrix[r * row_step + k * depth_step];
    return result;
}

// A tile: TILE_ROWS rows of the weights times V vectors of columns.
template <int V>
inline void tile(const float* weights, int64_t depth, const float* panel, int64_t stride,
                 float* out, int64_t out_stride, int64_t rows) {
    Vec sums[TILE_ROWS][V] = {};
    for (int64_t k = 0; k < depth; ++k) {
        Vec own[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) own[v] = load(panel + k * stride + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < TILE_ROWS; ++r) {
            Vec weight = splat(weights[k * TILE_ROWS + r]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sums[r][v] += weight * own[v];
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < TILE_ROWS; ++r)
        if (r < rows)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) store(out + r * out_stride + v * LANES, sums[r][v]);
}

// y = weights * columns, for all columns. `gathered(first, count, to)` fills a panel.
template <typename Gather>
void multiply(const std::vector<float>& weights, int64_t rows, int64_t depth, const Columns* input,
              const Gather& gathered, float* y, int64_t size, int64_t columns) {
    const int64_t panels = (columns + PANEL - 1) / PANEL;
    const Columns output{y, rows, size};
#pragma omp parallel num_threads(team(rows * depth * columns))
    {
        std::vector<float> scratch(depth * PANEL), result(TILE_ROWS * PANEL);
#pragma omp for schedule(static)
        for (int64_t p = 0; p < panels; ++p) {
            const int64_t first = p * PANEL, count = std::min<int64_t>(PANEL, columns - first);
            const bool whole = count == PANEL && output.in_one_image(first, PANEL);
            const bool direct = whole && input;
            const float* panel = direct ? input->at(first) : scratch.data();
            const int64_t stride = direct ? size : PANEL;
            if (!direct) gathered(first, count, scratch.data());
            for (int64_t r = 0; r < rows; r += TILE_ROWS) {
                const int64_t present = std::min<int64_t>(TILE_ROWS, rows - r);
                const float* own = weights.data() + r * depth;
                if (whole) {
                    float* to = const_cast<float*>(output.at(first)) + r * size;
                    tile<TILE_VECS>(own, depth, panel, stride, to, size, present);
                    continue;
                }
                tile<TILE_VECS>(own, depth, panel, stride, result.data(), PANEL, present);
                for (int64_t done = 0; done < count;) {
                    const int64_t left = size - (first + done) % size;
                    const int64_t piece = std::min(count - done, left);
                    float* to = const_cast<float*>(output.at(first + done)) + r * size;
                    for (int64_t q = 0; q < present; ++q)
                        copy_row(result.data() + q * PANEL + done, to + q * size, piece);
                    done += piece;
                }
            }
        }
    }
}

constexpr int DOT_ROWS = MANY_REGISTERS ? 4 : 3;
constexpr int DOT_COLS = MANY_REGISTERS ? 6 : 3;
constexpr int DOT_BLOCK = 12;

// sums[i * step + j] += dot(a[i], b[j]) over `length` floats, a multiple of LANES.
template <int R, int C>
inline void dots(const float* a, int64_t a_stride, const float* b, int64_t b_stride,
                 int64_t length, float* sums, int64_t step) {
    Vec own[R][C] = {};
    for (int64_t i = 0; i < length; i += LANES) {
        Vec left[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) left[r] = load(a + r * a_stride + i);
#pragma GCC unroll 6
        for (int c = 0; c < C; ++c) {
            Vec right = kept(load(b + c * b_stride + i));
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) own[r][c] += left[r] * right;
        }
    }
    for (int r = 0; r < R; ++r)
        for (int c = 0; c < C; ++c) sums[r * step + c] += total(own[r][c]);
}

// All of them. Some rows of b stay in the first cache while those of a pass by.
void all_dots(const float* a, int64_t a_rows, int64_t a_stride, const float* b, int64_t b_rows,
              int64_t b_stride, int64_t length, float* sums) {
    for (int64_t begin = 0; begin < b_rows; begin += DOT_BLOCK) {
        const int64_t end = std::min(b_rows, begin + DOT_BLOCK);
        for (int64_t r = 0; r < a_rows;) {
            const bool high = r + DOT_ROWS <= a_rows;
            for (int64_t c = begin; c < end;) {
                const bool wide = c + DOT_COLS <= end;
                const float *left = a + r * a_stride, *right = b + c * b_stride;
                float* to = sums + r * b_rows + c;
                if (high && wide)
                    dots<DOT_ROWS, DOT_COLS>(left, a_stride, right, b_stride, length, to, b_rows);
                else if (high)
                    dots<DOT_ROWS, 1>(left, a_stride, right, b_stride, length, to, b_rows);
                else if (wide)
                    dots<1, DOT_COLS>(left, a_stride, right, b_stride, length, to, b_rows);
                else
                    dots<1, 1>(left, a_stride, right, b_stride, length, to, b_rows);
                c += wide ? DOT_COLS : 1;
            }
            r += high ? DOT_ROWS : 1;
        }
    }
}

// dweights (rows, depth) = dy * columns^T, in parts that depend on the shape only.
template <typename Gather>
void outer_product(const Columns& dy, int64_t rows, int64_t depth, const Columns* input,
                   const Gather& gathered, float* dweights, int64_t columns) {
    int64_t chunk = round_up<int64_t>(std::min<int64_t>(columns, 512), LANES);
    const int64_t chunks = (columns + chunk - 1) / chunk;
    const int64_t groups = std::min<int64_t>(chunks, 32);
    const int64_t blocks = std::min<int64_t>((16 + groups - 1) / groups, (rows + 15) / 16);
    std::vector<float> parts(groups * rows * depth);
#pragma omp parallel num_threads(team(rows * depth * columns))
    {
        std::vector<float> left(rows * chunk), right(depth * chunk);
#pragma omp for schedule(static)
        for (int64_t item = 0; item < groups * blocks; ++item) {
            const int64_t group = item / blocks, block = item % blocks;
            const int64_t from = rows * block / blocks, to = rows * (block + 1) / blocks;
            float* sums = parts.data() + (group * rows + from) * depth;
            for (int64_t k = chunks * group / groups; k < chunks * (group + 1) / groups; ++k) {
                const int64_t first = k * chunk, count = std::min(chunk, columns - first);
                const bool whole = count == chunk && dy.in_one_image(first, chunk);
                const float* a = left.data();
                const float* b = right.data();
                int64_t a_stride = chunk, b_stride = chunk;
                if (whole) {
                    a = dy.at(first) + from * dy.size;
                    a_stride = dy.size;
                } else {
                    dy.gather(from, to - from, first, count, left.data(), chunk);
                }
                if (whole && input) {
                    b = input->at(first);
                    b_stride = input->size;
                } else {
                    gathered(first, count, right.data(), chunk);
                }
                all_dots(a, to - from, a_stride, b, depth, b_stride, chunk, sums);
            }
        }
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; ++r) {
            float* __restrict sum = dweights + r * depth;
            std::fill(sum, sum + depth, 0.0f);
            for (int64_t group = 0; group < groups; ++group) {
                const float* __restrict part = parts.data() + (group * rows + r) * depth;
                for (int64_t k = 0; k < depth; ++k) sum[k] += part[k];
            }
        }
    }
}

bool is_pointwise(const Shape& s) {
    return s.kernel == 1 && s.stride_h == 1 && s.stride_w == 1 && s.pad == 0;
}

}  // namespace

extern "C" {

// y (n, out, out_h, out_w) of x (n, in, h, w) and weights (out, in, kernel, kernel).
void dense_forward(const float* x, const float* weights, float* y, const Shape* shape) {
    const Shape& s = *shape;
    const int64_t size = s.out_h * s.out_w, depth = s.in * s.kernel * s.kernel;
    const std::vector<float> own = packed(weights, s.out, depth, depth, 1);
    if (is_pointwise(s)) {
        const Columns input{x, s.in, size};
        auto gather = [&](int64_t first, int64_t count, float* to) {
            input.gather(0, s.in, first, count, to, PANEL);
        };
        multiply(own, s.out, depth, &input, gather, y, size, s.n * size);
    } else {
        auto gather = [&](int64_t first, int64_t count, float* to) {
            gather_taps(x, s, first, count, to, PANEL);
        };
        multiply(own, s.out, depth, nullptr, gather, y, size, s.n * size);
    }
}

// Gradients of x (null: not wanted; 1x1 kernels of stride 1 only) and of the weights.
void dense_backward(const float* x, const float* weights, const float* dy, float* dx,
                    float* dweights, const Shape* shape) {
    const Shape& s = *shape;
    const int64_t size = s.out_h * s.out_w, depth = s.in * s.kernel * s.kernel;
    const Columns gradient{dy, s.out, size}, input{x, s.in, size};
    if (is_pointwise(s)) {
        auto gather = [&](int64_t first, int64_t count, float* to, int64_t stride) {
            input.gather(0, s.in, first, count, to, stride);
        };
        outer_product(gradient, s.out, depth, &input, gather, dweights, s.n * size);
    } else {
        auto gather = [&](int64_t first, int64_t count, float* to, int64_t stride) {
            gather_taps(x, s, first, count, to, stride);
        };
        outer_product(gradient, s.out, depth, nullptr, gather, dweights, s.n * size);
    }
    if (!dx) return;
    const std::vector<float> own = packed(weights, s.in, s.out, 1, s.in);
    auto gather = [&](int64_t first, int64_t count, float* to) {
        gradient.gather(0, s.out, first, count, to, PANEL);
    };
    multiply(own, s.in, s.out, &gradient, gather, dx, size, s.n * size);
}

}  // extern "C"
