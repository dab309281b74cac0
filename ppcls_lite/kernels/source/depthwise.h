// The shape of a depthwise convolution, and the two ways to compute it.
#pragma once

#include <cstdint>

struct DepthwiseShape {
    int64_t n, c, h, w, out_h, out_w;
    int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
};

// depthwise_tiles.cpp: for the common windows, where some planes fit the cache.
bool fits_tiles(const DepthwiseShape& shape);
void tiles_forward(const float* x, const float* weights, float* y, const DepthwiseShape& shape);
void tiles_backward(const float* x, const float* weights, const float* dy, float* dx,
                    float* dweights, const DepthwiseShape& shape);
