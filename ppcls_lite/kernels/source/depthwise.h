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
// `statistics` (null: not wanted): of each plane of y, as plane_statistics gives them.
void tiles_forward(const float* x, const float* weights, float* y, const DepthwiseShape& shape,
                   double* statistics);
// The gradient of y is `dy`, or, where that is null, what `slopes` gives.
void tiles_backward(const float* x, const float* weights, const float* dy, const Slopes* slopes,
                    float* dx, float* dweights, const DepthwiseShape& shape);
