// Vectors of floats as wide as the machine's registers, without intrinsics: GCC and Clang lower
// their vector extension to AVX-512, AVX2, SSE or NEON. Included by the three kernels.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr bool MANY_REGISTERS = true;  // 32 of them; AVX2 and SSE have 16
#elif defined(__AVX__)
constexpr int LANES = 8;
constexpr bool MANY_REGISTERS = false;
#else
constexpr int LANES = 4;
constexpr bool MANY_REGISTERS = false;
#endif

typedef float Vec __attribute__((vector_size(LANES * 4)));

static inline Vec load(const float* from) {
    Vec value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

static inline void store(float* to, Vec value) { std::memcpy(to, &value, sizeof value); }

static inline Vec splat(float value) { return value - Vec{}; }

// The sum of the lanes, in an order that does not depend on anything.
static inline float total(Vec value) {
    float lanes[LANES];
    store(lanes, value);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    return lanes[0];
}

// How many threads a kernel uses.
extern "C" int kernels_threads;

template <typename Int>
static inline Int round_up(Int value, Int unit) {
    return (value + unit - 1) / unit * unit;
}
