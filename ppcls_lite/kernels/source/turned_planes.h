// Planes turned: a tile is rows of vectors, each of one pixel of as many planes as it has lanes.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "norm.h"
#include "scratch.h"
#include "vectors.h"

#if !defined(BAND_BYTES)
#define BAND_BYTES (384 << 10)  // of a band of rows, about; the tests' are smaller
#endif

namespace {

// Pixels ahead that are asked for: rows a plane apart are no stream that a processor foresees.
constexpr int64_t READ_AHEAD = 4 * LANES, WRITE_AHEAD = 2 * LANES;

// Vectors, aligned, zero at first.
struct Tile {
    Scratch memory;
    float* data;
    explicit Tile(int64_t vectors) : memory(scratch(vectors * LANES)), data(memory.get()) {
        std::fill_n(data, vectors * LANES, 0.0f);
    }
};

// How the planes of one shape lie in their tiles: rows of vectors, pixel j of a row at `left` + j.
struct Grid {
    int64_t rows, cols, left, width;  // rows: of a band, at most
    std::vector<int64_t> places;      // of the band's pixels, in floats
    Grid(int64_t rows, int64_t cols, int64_t left, int64_t width)
        : rows(rows), cols(cols), left(left), width(width) {
        for (int64_t r = 0; r < rows; ++r)
            for (int64_t j = 0; j < cols; ++j) places.push_back((r * width + left + j) * LANES);
    }
};

// The rows of a band. Those that the next band needs again are kept.
class Rows {
  public:
    explicit Rows(const Grid& grid) : width(grid.width), tile(grid.rows * grid.width) {}
    void clear() { begin = end = 0; }
    // Make them [first, last), none before those that are here; fill(row, count, to) gives new ones.
    template <typename Fill>
    void take(int64_t first, int64_t last, const Fill& fill) {
        const int64_t kept = std::max<int64_t>(0, end - first);
        if (kept > 0 && first > begin)
            std::memmove(tile.data, row(first), kept * width * LANES * sizeof(float));
        begin = first, end = std::max(first + kept, last);
        if (first + kept < last) fill(first + kept, last - first - kept, row(first + kept));
    }
    float* row(int64_t number) const { return tile.data + (number - begin) * width * LANES; }

  private:
    int64_t width, begin = 0, end = 0;
    Tile tile;
};

// Consecutive planes in memory, `stride` floats apart, and as vectors: read(at, count, to) gives
// pixels [at, at + count), of all planes each; count is LANES, or less where there are no more.
struct Planes {
    const float* first;
    int64_t stride, lanes;  // lanes past `lanes` are zero

    void read(int64_t at, int64_t count, Vec (&to)[LANES]) const {
        if (count < LANES) {
            alignas(64) float pixels[LANES * LANES];
            for (int64_t p = 0; p < count; ++p) store(pixels + p * LANES, Vec{});
            for (int64_t i = 0; i < lanes; ++i)
                for (int64_t p = 0; p < count; ++p)
                    pixels[p * LANES + i] = first[i * stride + at + p];
            for (int64_t p = 0; p < count; ++p) to[p] = load(pixels + p * LANES);
            return;
        }
        if (lanes == LANES) {
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) {
                __builtin_prefetch(first + i * stride + at + READ_AHEAD);
                to[i] = load(first + i * stride + at);
            }
        } else {
            for (int i = 0; i < LANES; ++i)
                to[i] = i < lanes ? load(first + i * stride + at) : Vec{};
        }
        turned(to);
    }
};

// form(a vector's number) for the vectors of so many pixels.
template <typename Form>
void for_pixels(int64_t count, const Form& form) {
    if (count < LANES) {
        for (int64_t i = 0; i < count; ++i) form(i);
        return;
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i) form(i);
}

// What `of` knows of the channels of some planes, in the lanes; zero past `lanes`.
inline ChannelOf<Vec> channels_of(const Normalised& of, int64_t first, int64_t lanes) {
    ChannelOf<Vec> found{};
    int64_t c = first % of.channels;
    for (int64_t i = 0; i < lanes; ++i) {
        const Channel& own = of.of[c];
        found.mean[i] = own.mean, found.scale[i] = own.scale, found.shift[i] = own.shift;
        found.plain[i] = own.plain, found.weighted[i] = own.weighted;
        if (++c == of.channels) c = 0;
    }
    return found;
}

// The same as Planes for what a normalisation and its activation make of planes, and for the
// gradient that they hand on.
template <int A>
struct ValuesOf {
    Planes x;
    ChannelOf<Vec> own;
    ValuesOf(const Normalised& of, int64_t first, int64_t lanes)
        : x{of.x + first * of.size, of.size, lanes}, own(channels_of(of, first, lanes)) {}

    void read(int64_t at, int64_t count, Vec (&to)[LANES]) const {
        x.read(at, count, to);
        for_pixels(count, [&](int64_t i) { to[i] = value_of<A>(to[i], own); });
    }
};

template <int A>
struct GradientOf {
    Planes x, out;
    ChannelOf<Vec> own;
    GradientOf(const Slopes& s, int64_t first, int64_t lanes)
        : x{s.of.x + first * s.size, s.size, lanes}, out{s.dy + first * s.size, s.size, lanes},
          own(channels_of(s.of, first, lanes)) {}

    void read(int64_t at, int64_t count, Vec (&to)[LANES]) const {
        Vec values[LANES];
        x.read(at, count, values);
        out.read(at, count, to);
        for_pixels(count, [&](int64_t i) { to[i] = gradient_of<A>(values[i], to[i], own); });
    }
};

// `rows` rows from `row` on to a tile.
template <typename From>
void turn_in(const From& from, const Grid& grid, int64_t row, int64_t rows, float* tile) {
    const int64_t begin = row * grid.cols, size = rows * grid.cols;
    for (int64_t p = 0; p < size; p += LANES) {
        const int64_t count = std::min<int64_t>(size, LANES);
        const int64_t at = std::min(p, size - count);  // the last one overlaps
        Vec block[LANES];
        from.read(begin + at, count, block);
        const int64_t* place = grid.places.data() + at;
        for_pixels(count, [&](int64_t i) { store(tile + place[i], block[i]); });
    }
}

template <int A>
void turn_in_values(const Normalised& of, int64_t first, int64_t lanes, const Grid& grid,
                    int64_t row, int64_t rows, float* tile) {
    turn_in(ValuesOf<A>(of, first, lanes), grid, row, rows, tile);
}

template <int A>
void turn_in_gradient(const Slopes& of, int64_t first, int64_t lanes, const Grid& grid, int64_t row,
                      int64_t rows, float* tile) {
    turn_in(GradientOf<A>(of, first, lanes), grid, row, rows, tile);
}

// Planes from number `first` on as they lie in memory, or what is given instead of them.
inline void turn_in(const float* planes, const Normalised* values, int64_t first, int64_t size,
                    int64_t lanes, const Grid& grid, int64_t row, int64_t rows, float* tile) {
    const Planes plain{planes + first * size, size, lanes};
    if (!values) return turn_in(plain, grid, row, rows, tile);
    const auto turn = FOR_ACTIVATION(turn_in_values, values->activation);
    turn(*values, first, lanes, grid, row, rows, tile);
}

inline void turn_in(const float* planes, const Slopes* gradient, int64_t first, int64_t size,
                    int64_t lanes, const Grid& grid, int64_t row, int64_t rows, float* tile) {
    const Planes plain{planes + first * size, size, lanes};
    if (!gradient) return turn_in(plain, grid, row, rows, tile);
    const auto turn = FOR_ACTIVATION(turn_in_gradient, gradient->of.activation);
    turn(*gradient, first, lanes, grid, row, rows, tile);
}

// The first `rows` rows of a tile to planes of `size` pixels, from `row` on.
inline void turn_out(const float* tile, int64_t lanes, const Grid& grid, int64_t row, int64_t rows,
                     int64_t size, float* planes) {
    const int64_t count = rows * grid.cols;
    const int64_t* place = grid.places.data();
    planes += row * grid.cols;
    if (count < LANES) {
        for (int64_t p = 0; p < count; ++p)
            for (int64_t i = 0; i < lanes; ++i) planes[i * size + p] = tile[place[p] + i];
        return;
    }
    for (int64_t p = 0; p < count; p += LANES) {
        const int64_t at = std::min(p, count - LANES);
        Vec block[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) block[i] = load(tile + place[at + i]);
        turned(block);
        if (lanes == LANES) {
#pragma GCC unroll 16
            for (int i = 0; i < LANES; ++i) {
                store(planes + i * size + at, block[i]);
                __builtin_prefetch(planes + i * size + at + WRITE_AHEAD, 1);
            }
        } else {
            for (int64_t i = 0; i < lanes; ++i) store(planes + i * size + at, block[i]);
        }
    }
}

// each(number, pixel) for the pixels of the first `rows` rows of a tile; numbers 0 to 3 take turns,
// so that sums need not wait for each other.
template <typename Each>
void for_tile(const float* tile, const Grid& grid, int64_t rows, const Each& each) {
    for (int64_t r = 0; r < rows; ++r) {
        const float* from = tile + (r * grid.width + grid.left) * LANES;
        int64_t j = 0;
        for (; j + 4 <= grid.cols; j += 4)
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) each(k, load(from + (j + k) * LANES));
        for (; j < grid.cols; ++j) each(0, load(from + j * LANES));
    }
}

// Moments of what these rows hold of each plane, as moments_of gives them.
inline void tile_moments(const float* tile, int64_t lanes, const Grid& grid, int64_t rows,
                         Moments* to) {
    Vec sums[4] = {}, squares[4] = {}, rests[4] = {};
    for_tile(tile, grid, rows, [&](int k, Vec value) { sums[k] += value; });
    const double count = static_cast<double>(rows * grid.cols);
    const Vec mean = (sums[0] + sums[1] + (sums[2] + sums[3])) / static_cast<float>(count);
    for_tile(tile, grid, rows, [&](int k, Vec value) {
        const Vec apart = value - mean;
        squares[k] += apart * apart;
        rests[k] += apart;
    });
    const Vec square = squares[0] + squares[1] + (squares[2] + squares[3]);
    const Vec rest = rests[0] + rests[1] + (rests[2] + rests[3]);
    for (int64_t i = 0; i < lanes; ++i) to[i] = moments_about(mean[i], rest[i], square[i], count);
}

}  // namespace
