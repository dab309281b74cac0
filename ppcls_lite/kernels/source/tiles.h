// Products of bf16 pairs by the tile registers of a processor with AMX: eight of them, each of 16
// rows of 16 pairs. Of one instruction are the products of 16 rows with 16 columns over 32 numbers;
// its sums are float32 and have a fixed order. The tiles are written in assembler, as compilers
// differ in what they call them.
#pragma once

#include <algorithm>

#include "elements.h"

namespace {

constexpr int64_t SIDE = 16;  // rows of a tile, and pairs of each

// This thread's tile registers, all of one shape, while it lives.
class Tiles {
  public:
    Tiles() {
        struct alignas(64) {
            uint8_t palette = 1, start = 0, none[14] = {};
            uint16_t bytes[16] = {};
            uint8_t rows[16] = {};
        } shape;
        std::fill_n(shape.bytes, 8, 64);
        std::fill_n(shape.rows, 8, SIDE);
        asm volatile("ldtilecfg %0" ::"m"(shape));
    }
    Tiles(const Tiles&) = delete;
    // A processor that has them in use saves more at every interrupt, and sleeps less deeply.
    ~Tiles() { asm volatile("tilerelease"); }
};

template <int T>
void tile_zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(T));
}
// Rows of 16 elements, `row` of them apart.
template <int T, typename Any>
void tile_load(const Any* from, int64_t row) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(4 * row), "i"(T) : "memory");
}
template <int T>
void tile_store(float* to, int64_t row) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(4 * row), "i"(T) : "memory");
}
template <int Sum, int A, int B>
void tile_dot() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(A), "i"(B));
}

// Tiles one after another: `row` elements from one row to the next, `next` from tile to tile.
struct TileRow {
    const Element* from;
    int64_t row, next;
};

// sums (16 rows, V * 16), rows `row` apart, += a * b over so many tiles; = if they are the `first`.
template <int V>
void whole_products(const TileRow& a, const TileRow& b, int64_t tiles, float* sums, int64_t row,
                    bool first) {
    if (first) {
        tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    } else {
        tile_load<0>(sums, row);
        if constexpr (V > 1) tile_load<1>(sums + SIDE, row);
        if constexpr (V > 2) tile_load<2>(sums + 2 * SIDE, row);
        if constexpr (V > 3) tile_load<3>(sums + 3 * SIDE, row);
    }
    const Element *left = a.from, *right = b.from;
    for (int64_t k = 0; k < tiles; ++k, left += a.next, right += b.next) {
        tile_load<4>(left, a.row);
        tile_load<5>(right, b.row), tile_dot<0, 4, 5>();
        if constexpr (V > 1) tile_load<6>(right + SIDE, b.row), tile_dot<1, 4, 6>();
        if constexpr (V > 2) tile_load<7>(right + 2 * SIDE, b.row), tile_dot<2, 4, 7>();
        if constexpr (V > 3) tile_load<5>(right + 3 * SIDE, b.row), tile_dot<3, 4, 5>();
    }
    tile_store<0>(sums, row);
    if constexpr (V > 1) tile_store<1>(sums + SIDE, row);
    if constexpr (V > 2) tile_store<2>(sums + 2 * SIDE, row);
    if constexpr (V > 3) tile_store<3>(sums + 3 * SIDE, row);
}

// The same for the first `rows` rows of sums (rows, vecs * 16).
inline void products(const TileRow& a, const TileRow& b, int64_t tiles, int64_t vecs, float* sums,
                     int64_t row, int64_t rows, bool first) {
    const auto work = vecs == 4   ? whole_products<4>
                      : vecs == 3 ? whole_products<3>
                      : vecs == 2 ? whole_products<2>
                                  : whole_products<1>;
    if (rows >= SIDE) return work(a, b, tiles, sums, row, first);
    const int64_t width = vecs * SIDE;
    float room[SIDE * 4 * SIDE] = {};
    for (int64_t r = 0; r < rows && !first; ++r) std::copy_n(sums + r * row, width, room + r * width);
    work(a, b, tiles, room, width, first);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(room + r * width, width, sums + r * row);
}

}  // namespace
