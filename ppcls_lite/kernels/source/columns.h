// Where the columns of a matrix product come from and where they go: planes of float32, NCHW.
//
// A column is a place of an output plane; the places of all images are one long row of columns. A
// source gives `rows()` values for each: one of every channel (Pixels), or one of every channel and
// tap (Taps). They are read in place where that is possible, else gathered into scratch memory.
#pragma once

#include <algorithm>

#include "vectors.h"

// Row k of column g is pixel g % size of channel k of image g / size.
struct Pixels {
    const float* data;
    int64_t channels, size;

    int64_t rows() const { return channels; }
    int64_t unit() const { return 1; }  // rows are gathered in multiples of it
    int64_t step() const { return size; }
    // Columns [first, first + count) in place, one row `step()` after another; null: not possible.
    const float* direct(int64_t first, int64_t count, int64_t columns) const {
        if (first % size + count > size || first + count > columns) return nullptr;
        return data + first / size * channels * size + first % size;
    }
    // Gather `count` channels from `row` on; columns past `count` are zero up to `stride`.
    void gather(int64_t row, int64_t rows, int64_t first, int64_t count, float* to,
                int64_t stride) const {
        for (int64_t done = 0; done < count;) {
            const int64_t at = (first + done) % size, piece = std::min(count - done, size - at);
            const float* from = data + ((first + done) / size * channels + row) * size + at;
            for (int64_t k = 0; k < rows; ++k) copy_row(from + k * size, to + k * stride + done, piece);
            done += piece;
        }
        for (int64_t k = 0; k < rows && count < stride; ++k)
            std::fill(to + k * stride + count, to + (k + 1) * stride, 0.0f);
    }
};

// What a window reads at each of its places: row (c * height + a) * width + b is tap (a, b) of
// channel c, zero outside the plane.
struct Taps {
    const float* data;
    int64_t channels, h, w, out_h, out_w;
    struct Axis {
        int64_t taps, stride, dilation, pad;  // pad may be negative
    } down, right;

    int64_t rows() const { return channels * unit(); }
    int64_t unit() const { return down.taps * right.taps; }
    int64_t step() const { return 0; }
    const float* direct(int64_t, int64_t, int64_t) const { return nullptr; }
    void gather(int64_t row, int64_t rows, int64_t first, int64_t count, float* to,
                int64_t stride) const {
        const int64_t size = out_h * out_w, begin = row / unit(), some = rows / unit();
        for (int64_t done = 0; done < count;) {
            const int64_t g = (first + done) % size, place = g / out_w, col = g % out_w;
            const int64_t piece = std::min(count - done, out_w - col);
            const float* image = data + ((first + done) / size * channels + begin) * h * w;
            for (int64_t a = 0; a < down.taps; ++a)
                for (int64_t b = 0; b < right.taps; ++b) {
                    const int64_t i = place * down.stride + a * down.dilation - down.pad;
                    const int64_t start = col * right.stride + b * right.dilation - right.pad;
                    int64_t low = 0, high = 0;  // of the piece, inside the plane
                    if (i >= 0 && i < h) {
                        low = std::max<int64_t>(0, (right.stride - 1 - start) / right.stride);
                        high = (w - start + right.stride - 1) / right.stride;
                        low = std::min(low, piece);
                        high = std::max(low, std::min(high, piece));
                    }
                    float* tap = to + (a * right.taps + b) * stride + done;
                    const float* from = image + (i * w + start + right.stride * low);
                    for (int64_t c = 0; c < some; ++c, tap += unit() * stride, from += h * w)
                        take(from, tap, low, high, piece);
                }
            done += piece;
        }
        for (int64_t k = 0; k < rows && count < stride; ++k)
            std::fill(to + k * stride + count, to + (k + 1) * stride, 0.0f);
    }

  private:
    void take(const float* from, float* to, int64_t low, int64_t high, int64_t piece) const {
        for (int64_t j = 0; j < low; ++j) to[j] = 0;
        if (right.stride == 1) {
            copy_row(from, to + low, high - low);
        } else if (right.stride == 2) {
            take_every_second(from, to + low, high - low);
        } else {
            for (int64_t j = low; j < high; ++j) to[j] = from[right.stride * (j - low)];
        }
        for (int64_t j = high; j < piece; ++j) to[j] = 0;
    }
};

// Planes that results are written to: place (u, v) is pixel `offset + u * down + v * right`.
struct Places {
    float* data;
    int64_t channels, plane;  // floats of a plane
    int64_t height, width, offset, down, right;

    bool dense() const { return right == 1 && down == width && offset == 0; }
    float* direct(int64_t first, int64_t count, int64_t columns) const {
        if (!dense() || first % plane + count > plane || first + count > columns) return nullptr;
        return data + first / plane * channels * plane + first % plane;
    }
    // Columns [first, first + count) of `rows` channels from `row` on.
    void scatter(const float* from, int64_t stride, int64_t row, int64_t rows, int64_t first,
                 int64_t count) const {
        const int64_t size = height * width;
        for (int64_t done = 0; done < count;) {
            const int64_t g = (first + done) % size, col = g % width;
            const int64_t piece = std::min(count - done, dense() ? size - g : width - col);
            float* to = data + ((first + done) / size * channels + row) * plane;
            to += dense() ? g : offset + g / width * down + col * right;
            for (int64_t k = 0; k < rows; ++k, to += plane) {
                const float* own = from + k * stride + done;
                if (right == 1) {
                    copy_row(own, to, piece);
                } else {
                    for (int64_t j = 0; j < piece; ++j) to[j * right] = own[j];
                }
            }
            done += piece;
        }
    }
};
