// Products of matrices, as dense.cpp cuts them: a panel of columns with the weights, tile by tile,
// and the rows of two sides with each other over a chunk of pixels. Every sum has a fixed order.
#pragma once

#include <algorithm>
#include <array>

#include "elements.h"
#include "scratch.h"
#if defined(TILE_PRODUCTS)
#include "tiles.h"
#endif

namespace {

constexpr int TILE_VECS = MANY_REGISTERS ? 4 : 2;
constexpr int PANEL = TILE_VECS * LANES;
#if defined(TILE_PRODUCTS)
constexpr int64_t CHUNK = 256;  // pixels of one step of the weights' gradient
constexpr std::array<int64_t, 1> HEIGHTS{SIDE};  // of a tile of the weights
#else
constexpr int64_t CHUNK = 128;
constexpr std::array<int64_t, 3> HEIGHTS{6, 5, 4};
#endif
constexpr int64_t CHUNK_ELEMENTS = CHUNK / AT_ONCE;

typedef std::unique_ptr<Element[], Free> ElementScratch;
ElementScratch element_scratch(int64_t count) {
    return ElementScratch((Element*)::operator new(sizeof(Element) * count, LINE));
}

// Weights (rows, depth) as [tile][depth][height], rows past the end zero; with tile registers as
// [tile][part of the depth][16 rows][16 pairs]. A row's depth runs over `outer` places and, at each,
// the taps at `offsets`.
struct Packed {
    int64_t rows, depth, height, elements;  // elements: of a row's depth
    ElementScratch values;

    Packed(const float* matrix, int64_t rows, int64_t row_step, int64_t outer, int64_t outer_step,
           const std::vector<int64_t>& offsets)
        : rows(rows), depth(outer * (int64_t)offsets.size()),
          elements(round_up(depth, TOGETHER) / AT_ONCE) {
        height = HEIGHTS.front();
        // The height that wastes least: a tile's other cost is about half a row's.
        for (int64_t lower : HEIGHTS)
            if (tiles_of(lower) * (2 * lower + 1) < tiles_of(height) * (2 * height + 1))
                height = lower;
        values = element_scratch(tiles() * height * elements);
        const int64_t taps = offsets.size();
#pragma omp parallel num_threads(team(4 * rows * depth))
        {
            const Scratch room = scratch(AT_ONCE == 1 ? 0 : height * depth);
#pragma omp for schedule(static)
            for (int64_t t = 0; t < tiles(); ++t) {
                const float* from = matrix + t * height * row_step;
                Element* own = values.get() + t * height * elements;
                float* to = AT_ONCE == 1 ? (float*)own : room.get();
                const int64_t present = std::min(height, rows - t * height);
                for (int64_t o = 0; o < outer; ++o)
                    for (int64_t k = 0; k < taps; ++k, to += height) {
                        const float* one = from + o * outer_step + offsets[k];
                        for (int64_t r = 0; r < present; ++r) to[r] = one[r * row_step];
                        for (int64_t r = present; r < height; ++r) to[r] = 0;
                    }
                pair_up(room.get(), own);
            }
        }
    }
    int64_t tiles_of(int64_t rows_each) const { return (rows + rows_each - 1) / rows_each; }
    int64_t tiles() const { return tiles_of(height); }

  private:
    // A tile (depth, height) as elements.
    void pair_up([[maybe_unused]] const float* from, [[maybe_unused]] Element* to) const {
#if defined(TILE_PRODUCTS)
        for (int64_t k = 0; k < elements; k += SIDE) {
            Vec pairs[LANES];
            for (int64_t i = 0; i < SIDE; ++i) {
                const int64_t row = 2 * (k + i);
                const Vec upper = row < depth ? load(from + row * SIDE) : Vec{};
                const Vec lower = row + 1 < depth ? load(from + (row + 1) * SIDE) : Vec{};
                pairs[i] = (Vec)across(upper, lower);
            }
            turned(pairs);
            for (const Vec& row : pairs) store_elements(to, (Elements)row), to += SIDE;
        }
#elif defined(BF16_PRODUCTS)
        for (int64_t k = 0; k < elements; ++k, from += 2 * height, to += height) {
            float two[2][LANES] = {};
            std::copy_n(from, height, two[0]);
            if (2 * k + 1 < depth) std::copy_n(from + height, height, two[1]);
            Element pairs[LANES];
            store_elements(pairs, across(load(two[0]), load(two[1])));
            std::copy_n(pairs, height, to);
        }
#endif
    }
};

#if !defined(TILE_PRODUCTS)
// Ask for R rows of V vectors that will be written, so that they are in the cache by then.
template <int R, int V>
inline void ask_to_write(float* to, int64_t step) {
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) __builtin_prefetch(to + r * step + v * LANES, 1);
}

// H rows of the weights times a panel, added to `out` unless it is the `first` part of the depth.
// AHEAD: ask for the panel behind this one, as rows a plane apart are no stream that a processor
// foresees.
template <int H, bool AHEAD>
void tile(const Element* weights, int64_t depth, const Element* panel, int64_t stride, float* out,
          int64_t out_stride, int64_t rows, bool first) {
    Vec sums[H][TILE_VECS] = {};
    ask_to_write<H, TILE_VECS>(out, out_stride);
    if (!first)
#pragma GCC unroll 6
        for (int r = 0; r < H; ++r)
            if (r < rows)
#pragma GCC unroll 4
                for (int v = 0; v < TILE_VECS; ++v) sums[r][v] = load(out + r * out_stride + v * LANES);
    for (int64_t k = 0; k < depth; ++k) {
        Elements own[TILE_VECS];
#pragma GCC unroll 4
        for (int v = 0; v < TILE_VECS; ++v) {
            own[v] = load_elements(panel + k * stride + v * LANES);
            if (AHEAD) __builtin_prefetch(panel + k * stride + PANEL + v * LANES);
        }
#pragma GCC unroll 6
        for (int r = 0; r < H; ++r) {
            const Elements weight = spread(weights + k * H + r);
#pragma GCC unroll 4
            for (int v = 0; v < TILE_VECS; ++v) sums[r][v] = plus_product(sums[r][v], weight, own[v]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < H; ++r)
        if (r < rows)
#pragma GCC unroll 4
            for (int v = 0; v < TILE_VECS; ++v) store(out + r * out_stride + v * LANES, sums[r][v]);
}

typedef void (*Tile)(const Element*, int64_t, const Element*, int64_t, float*, int64_t, int64_t, bool);
constexpr Tile TILES[] = {tile<4, false>, tile<5, false>, tile<6, false>};
constexpr Tile TILES_AHEAD[] = {tile<4, true>, tile<5, true>, tile<6, true>};
#endif

// Rows of columns as the tiles read them: in place, or in pairs of rows.
class Columns {
  public:
    Columns(int64_t rows, int64_t count)
        : room(element_scratch(
              AT_ONCE == 1 ? 0 : round_up(rows, TOGETHER) / AT_ONCE * round_up<int64_t>(count, PANEL))) {}

    // `count` columns of `rows` rows, of which whole panels can be read; in `place`: those behind
    // them are the next ones.
    void take(const float* from, int64_t rows, int64_t stride, [[maybe_unused]] int64_t count,
              bool place) {
        depth = round_up(rows, TOGETHER) / AT_ONCE;
#if defined(BF16_PRODUCTS)
        Element* to = room.get();
        for (int64_t p = 0; p < count; p += PANEL)
            for (int64_t k = 0; k < AT_ONCE * depth; k += 2) {
                const float *upper = from + k * stride + p, *lower = upper + stride;
                const bool any = k < rows, both = k + 1 < rows;  // else zeros behind the rows
#pragma GCC unroll 4
                for (int v = 0; v < TILE_VECS; ++v, to += LANES) {
                    if (place && any) {
                        __builtin_prefetch(upper + count + v * LANES);
                        __builtin_prefetch(lower + count + v * LANES);
                    }
                    const Vec above = any ? load(upper + v * LANES) : Vec{};
                    const Vec below = both ? load(lower + v * LANES) : Vec{};
                    store_elements(to, across(above, below));
                }
            }
#else
        data = from, step = stride, ahead = place;
#endif
    }
    // `out` (rows of the weights, PANEL) = weights * panel number `panel`, for the tiles [begin,
    // end). The rows that were taken are the weights' depth from `k` on; added unless that is 0.
    void multiply(const Packed& weights, int64_t k, int64_t panel, int64_t begin, int64_t end,
                  float* out, int64_t out_step) const {
        const int64_t height = weights.height;
        const Element* own = AT_ONCE == 1 ? data + panel * PANEL : room.get() + panel * PANEL * depth;
        for (int64_t t = begin; t < end; ++t) {
            const Element* values = weights.values.get() + (t * weights.elements + k / AT_ONCE) * height;
            const int64_t rows = std::min(height, weights.rows - t * height);
            float* to = out + t * height * out_step;
#if defined(TILE_PRODUCTS)
            products({values, SIDE, SIDE * SIDE}, {own, step, SIDE * step}, depth / SIDE, TILE_VECS, to,
                     out_step, rows, k == 0);
#else
            const Tile work = ahead && t == begin ? TILES_AHEAD[height - 4] : TILES[height - 4];
            work(values, depth, own, step, to, out_step, rows, k == 0);
#endif
        }
    }

  private:
    ElementScratch room;
#if defined(TILE_PRODUCTS)
    Tiles tiles;
#endif
    const Element* data = nullptr;
    int64_t depth = 0, step = PANEL;
    bool ahead = false;
};

#if !defined(TILE_PRODUCTS)
// sums[r * step + i] += sum over p of a[r * stride + p] * b[p * V * LANES + i]
template <int R, int V>
void outer(const Element* a, int64_t stride, const Element* b, float* sums, int64_t step) {
    Vec own[R][V] = {};
    ask_to_write<R, V>(sums, step);
    for (int64_t p = 0; p < CHUNK_ELEMENTS; ++p) {
        Elements right[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) right[v] = load_elements(b + (p * V + v) * LANES);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const Elements left = spread(a + r * stride + p);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) own[r][v] = plus_product(own[r][v], left, right[v]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) {
            float* to = sums + r * step + v * LANES;
            store(to, load(to) + own[r][v]);
        }
}

// The same for `rows` rows, in blocks of about the same height that fit the registers.
template <int V>
void outer_rows(const Element* a, int64_t rows, int64_t stride, const Element* b, float* sums,
                int64_t step) {
    constexpr int MOST = V >= 3 ? 6 : 12;
    for (int64_t r = 0, left = (rows + MOST - 1) / MOST; r < rows; --left) {
        const int64_t height = (rows - r + left - 1) / left;
        const Element* own = a + r * stride;
        float* to = sums + r * step;
        switch (height) {
            case 1: outer<1, V>(own, stride, b, to, step); break;
            case 2: outer<2, V>(own, stride, b, to, step); break;
            case 3: outer<3, V>(own, stride, b, to, step); break;
            case 4: outer<4, V>(own, stride, b, to, step); break;
            case 5: outer<5, V>(own, stride, b, to, step); break;
            case 6: outer<6, V>(own, stride, b, to, step); break;
            case 7: outer<MOST == 12 ? 7 : 1, V>(own, stride, b, to, step); break;
            case 8: outer<MOST == 12 ? 8 : 1, V>(own, stride, b, to, step); break;
            case 9: outer<MOST == 12 ? 9 : 1, V>(own, stride, b, to, step); break;
            case 10: outer<MOST == 12 ? 10 : 1, V>(own, stride, b, to, step); break;
            case 11: outer<MOST == 12 ? 11 : 1, V>(own, stride, b, to, step); break;
            default: outer<MOST, V>(own, stride, b, to, step);
        }
        r += height;
    }
}
#endif

// Rows of CHUNK pixels as [element][vecs * LANES]; rows past `rows` are zero.
void turn(const float* from, int64_t rows, int64_t stride, int64_t vecs, Element* to) {
    for (int64_t v = 0; v < vecs; ++v)
        for (int64_t p = 0; p < CHUNK_ELEMENTS; p += LANES) {
            Vec block[LANES] = {};
            const int64_t present = std::min<int64_t>(LANES, rows - v * LANES);
            for (int64_t r = 0; r < present; ++r)
                block[r] = (Vec)along(from + (v * LANES + r) * stride + p * AT_ONCE);
            turned(block);
            for (int i = 0; i < LANES; ++i)
                store_elements(to + ((p + i) * vecs + v) * LANES, (Elements)block[i]);
        }
}

// The rows of both sides of the weights' gradient with each other, over CHUNK pixels.
class Outer {
  public:
    explicit Outer(int64_t rows)
        : left(element_scratch(AT_ONCE == 1 ? 0 : round_up(rows, HEIGHTS[0]) * CHUNK_ELEMENTS)),
          panel(element_scratch(CHUNK_ELEMENTS * PANEL)) {}

    // sums (a_rows, room) += a * b^T; a has no more rows than the constructor was told.
    void add(const float* a, int64_t a_rows, int64_t a_stride, const float* b, int64_t b_rows,
             int64_t b_stride, float* sums, int64_t room) {
#if defined(BF16_PRODUCTS)
        for (int64_t r = 0; r < a_rows; ++r)
            for (int64_t p = 0; p < CHUNK_ELEMENTS; p += LANES)
                store_elements(&left[r * CHUNK_ELEMENTS + p], along(a + r * a_stride + 2 * p));
        const Element* rows = left.get();
        a_stride = CHUNK_ELEMENTS;
#else
        const Element* rows = a;
#endif
        for (int64_t c = 0; c < room; c += PANEL) {
            const int64_t vecs = std::min<int64_t>(TILE_VECS, (room - c) / LANES);
            turn(b + c * b_stride, b_rows - c, b_stride, vecs, panel.get());
#if defined(TILE_PRODUCTS)
            const TileRow columns{panel.get(), vecs * SIDE, SIDE * vecs * SIDE};
            for (int64_t r = 0; r < a_rows; r += SIDE)
                products({rows + r * a_stride, a_stride, SIDE}, columns, CHUNK_ELEMENTS / SIDE, vecs,
                         sums + r * room + c, room, std::min(SIDE, a_rows - r), false);
#else
            const auto work = vecs == 4   ? outer_rows<MANY_REGISTERS ? 4 : 2>
                              : vecs == 3 ? outer_rows<MANY_REGISTERS ? 3 : 2>
                              : vecs == 2 ? outer_rows<2>
                                          : outer_rows<1>;
            work(rows, a_rows, a_stride, panel.get(), sums + c, room);
#endif
        }
    }

  private:
    ElementScratch left, panel;
#if defined(TILE_PRODUCTS)
    Tiles tiles;
#endif
};

}  // namespace
