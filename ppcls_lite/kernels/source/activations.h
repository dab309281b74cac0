// Activations and their slopes, numbered as in ops.py, of a float or of a vector of floats.
// Comparisons are written so that NaN comes through.
#pragma once

enum Activation { NONE, RELU, RELU6, HARDSWISH };

template <int A, typename T>
static inline T act(T z) {
    const T none{}, six = none + 6.0f;
    if constexpr (A == RELU) return z < none ? none : z;
    if constexpr (A == RELU6) {
        z = z < none ? none : z;
        return z > six ? six : z;
    }
    if constexpr (A == HARDSWISH) {
        T gate = z + 3.0f;
        gate = gate < none ? none : gate;
        gate = gate > six ? six : gate;
        return z * gate * (1.0f / 6);
    }
    return z;
}

template <int A, typename T>
static inline T slope(T z) {
    const T none{}, one = none + 1.0f;
    if constexpr (A == RELU) return z <= none ? none : one;
    if constexpr (A == RELU6) return (z <= none) | (z >= none + 6.0f) ? none : one;
    if constexpr (A == HARDSWISH) {
        T middle = z * (1.0f / 3) + 0.5f;
        middle = z < none - 3.0f ? none : middle;
        return z > none + 3.0f ? one : middle;
    }
    return one;
}

// The function of an activation.
#define FOR_ACTIVATION(function, activation)            \
    ((activation) == RELU        ? function<RELU>       \
     : (activation) == RELU6     ? function<RELU6>      \
     : (activation) == HARDSWISH ? function<HARDSWISH>  \
                                 : function<NONE>)
