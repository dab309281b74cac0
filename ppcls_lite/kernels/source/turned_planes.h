// Planes turned: a tile is rows of vectors, each of one pixel of as many planes as it has lanes.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "scratch.h"
#include "vectors.h"

namespace {

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

// `count` rows from `row` on of planes in memory.
void turn_in(const float* planes, int64_t size, int64_t lanes, const Grid& grid, int64_t row,
             int64_t count, float* tile) {
    turn_in(planes + row * grid.cols, size, lanes, count * grid.cols, grid.places.data(), tile);
}

// The same for values that are formed on the way, some pixels of all planes at a time.
template <typename Source>
void turn_in(const Source& source, int64_t first, int64_t lanes, const Grid& grid, int64_t row,
             int64_t rows, float* tile) {
    constexpr int64_t SOME = 16 * LANES;
    alignas(64) float pixels[LANES * SOME];
    const int64_t begin = row * grid.cols, size = rows * grid.cols;
    if (source.small()) {  // one band
        source.write_planes(first, lanes, pixels);
        return turn_in(pixels, size, lanes, size, grid.places.data(), tile);
    }
    for (int64_t p = 0; p < size; p += SOME) {
        const int64_t count = std::min(SOME, size - p), next = begin + p + count;
        const int64_t ahead = std::min(SOME, source.size - next);
        for (int64_t i = 0; i < lanes; ++i) {
            source.fetch((first + i) * source.size + next, ahead);
            source.write(first + i, begin + p, count, pixels + i * SOME);
        }
        turn_in(pixels, SOME, lanes, count, grid.places.data() + p, tile);
    }
}

// The same by the `source`, if there is one, else from memory; `first`: number of the first plane.
template <typename Source>
void turn_in(const float* planes, const Source* source, int64_t first, int64_t size, int64_t lanes,
             const Grid& grid, int64_t row, int64_t rows, float* tile) {
    if (source)
        turn_in(*source, first, lanes, grid, row, rows, tile);
    else
        turn_in(planes + first * size, size, lanes, grid, row, rows, tile);
}

// The first `rows` rows of a tile to planes of `size` pixels, from `row` on.
void turn_out(const float* tile, int64_t lanes, const Grid& grid, int64_t row, int64_t rows,
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
            for (int i = 0; i < LANES; ++i) store(planes + i * size + at, block[i]);
        } else {
            for (int64_t i = 0; i < lanes; ++i) store(planes + i * size + at, block[i]);
        }
    }
}

}  // namespace
