// The shape of a depthwise convolution, and the two ways to compute it.
#pragma once

#include <cstdint>

#include "norm.h"

struct DepthwiseShape {
    int64_t n, c, h, w, out_h, out_w;
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

// depthwise_tiles.cpp: for the common windows, where some planes fit the cache.
bool fits_tiles(const DepthwiseShape& shape);
// `in` (null: x itself): what a normalisation makes of x, which is then what is convolved.
// `statistics` (null: not wanted): of each plane of y.
void tiles_forward(const float* x, const Normalised* in, const float* weights, float* y,
                   const DepthwiseShape& shape, Moments* statistics);
// The gradient of y is `dy`, or, where that is null, what `slopes` gives. `sums` (null: not
// wanted): of each plane of `in`, as its add_sums gives them.
void tiles_backward(const float* x, const Normalised* in, const float* weights, const float* dy,
                    const Slopes* slopes, float* dx, float* dweights, const DepthwiseShape& shape,
                    double* sums);
