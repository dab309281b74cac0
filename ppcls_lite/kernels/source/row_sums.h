// Sums over rows of pixels that come chunk by chunk. They are kept as vectors, one lane beside the
// other, as to add up the lanes of a vector costs as much as to add several vectors to it; after
// some chunks the lanes go into sums in double precision. The order is that of the chunks.
#pragma once

#include <algorithm>

#include "columns.h"
#include "norm.h"
#include "scratch.h"

namespace {

// Two vectors for each row, and how many chunks are in them.
class RowVectors {
  public:
    explicit RowVectors(int64_t rows) : rows(rows), vectors(scratch(2 * LANES * rows)) { clear(); }
    float* of(int64_t row) const { return vectors.get() + 2 * LANES * row; }
    float first(int64_t row) const { return total(load(of(row))); }
    float second(int64_t row) const { return total(load(of(row) + LANES)); }
    void clear() {
        std::fill(of(0), of(rows), 0.0f);
        chunks = 0;
    }
    bool empty() const { return chunks == 0; }
    // A chunk is in them now; whether they are to be added up.
    bool full() { return ++chunks == 16; }  // 128 numbers a lane where a chunk has 128 pixels

    const int64_t rows;

  private:
    Scratch vectors;
    int chunks = 0;
};

// Moments of each row, about the mean of the first of the chunks that are added up together.
class RowMoments {
  public:
    explicit RowMoments(int64_t rows) : sums(rows), about(rows) {}

    // A chunk of `count` pixels of all rows; `to` has the moments of each row.
    void add(const float* values, int64_t stride, int64_t count, Moments* to) {
        for (int64_t r = 0; r < sums.rows; ++r) {
            const float* from = values + r * stride;
            if (sums.empty()) about[r] = mean_of(from, count);
            const Vec centre = splat(about[r]);
            Vec rests[2] = {load(sums.of(r)), Vec{}}, squares[2] = {load(sums.of(r) + LANES), Vec{}};
            for_vectors(from, count, about[r], [&](int k, Vec value) {
                const Vec apart = value - centre;
                rests[k] += apart;
                squares[k] += apart * apart;
            });
            store(sums.of(r), rests[0] + rests[1]);
            store(sums.of(r) + LANES, squares[0] + squares[1]);
        }
        pixels += count;
        if (sums.full()) finish(to);
    }

    // What is left.
    void finish(Moments* to) {
        if (sums.empty()) return;
        for (int64_t r = 0; r < sums.rows; ++r)
            to[r].add(moments_about(about[r], sums.first(r), sums.second(r), (double)pixels));
        sums.clear();
        pixels = 0;
    }

  private:
    // each(number, vector) for all values, `fill` behind the last; numbers 0 and 1 take turns, so
    // that sums need not wait for each other.
    template <typename Each>
    static void for_vectors(const float* from, int64_t count, float fill, const Each& each) {
        int64_t i = 0;
        for (; i + 2 * LANES <= count; i += 2 * LANES) {
            each(0, load(from + i));
            each(1, load(from + i + LANES));
        }
        for (; i < count; i += LANES) {
            Vec value = splat(fill);
            std::memcpy(&value, from + i, 4 * std::min<int64_t>(LANES, count - i));
            each(0, value);
        }
    }
    static float mean_of(const float* from, int64_t count) {
        Vec all[2] = {};
        for_vectors(from, count, 0, [&](int k, Vec value) { all[k] += value; });
        return total(all[0] + all[1]) / (float)count;
    }

    RowVectors sums;
    std::vector<float> about;
    int64_t pixels = 0;
};

// What a normalisation sums over the gradient of what it gives: see Normalised::add_sums.
class GradientSums {
  public:
    explicit GradientSums(int64_t channels) : sums(channels) {}

    // Pixels [first, first + count) of all images' planes one after another; `dx` is the gradient,
    // and `to` (channels, 2) has the sums.
    void add(const Normalised& of, const float* dx, int64_t first, int64_t count, double* to) {
        for (int64_t done = 0; done < count;) {
            const int64_t at = (first + done) % of.size, piece = std::min(count - done, of.size - at);
            const int64_t image = (first + done) / of.size;
            for (int64_t c = 0; c < of.channels; ++c)
                of.add_lanes(dx, image * of.channels + c, at, piece, sums.of(c));
            done += piece;
        }
        if (sums.full()) finish(to);
    }

    // What is left.
    void finish(double* to) {
        if (sums.empty()) return;
        for (int64_t c = 0; c < sums.rows; ++c, to += 2) to[0] += sums.first(c), to[1] += sums.second(c);
        sums.clear();
    }

    // An input that nothing was normalised to has no such sums.
    void add(const Pixels&, const float*, int64_t, int64_t, double*) {}

  private:
    RowVectors sums;
};

}  // namespace
