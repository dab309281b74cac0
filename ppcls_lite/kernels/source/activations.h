// Activations and their slopes, numbered as in ops.py. Comparisons are written so that NaN comes
// through.
#pragma once

enum Activation { NONE, RELU, RELU6, HARDSWISH };

template <int A>
static inline float act(float z) {
    if (A == RELU) return z < 0 ? 0 : z;
    if (A == RELU6) {
        z = z < 0 ? 0 : z;
        return z > 6 ? 6 : z;
    }
    if (A == HARDSWISH) {
        float gate = z + 3;
        gate = gate < 0 ? 0 : gate;
        gate = gate > 6 ? 6 : gate;
        return z * gate * (1.0f / 6);
    }
    return z;
}

template <int A>
static inline float slope(float z) {
    if (A == RELU) return z <= 0 ? 0.0f : 1.0f;
    if (A == RELU6) return z <= 0 || z >= 6 ? 0.0f : 1.0f;
    if (A == HARDSWISH) {
        float middle = z * (1.0f / 3) + 0.5f;
        middle = z < -3 ? 0.0f : middle;
        return z > 3 ? 1.0f : middle;
    }
    return 1;
}

// The function of an activation.
#define FOR_ACTIVATION(function, activation)            \
    ((activation) == RELU        ? function<RELU>       \
     : (activation) == RELU6     ? function<RELU6>      \
     : (activation) == HARDSWISH ? function<HARDSWISH>  \
                                 : function<NONE>)
