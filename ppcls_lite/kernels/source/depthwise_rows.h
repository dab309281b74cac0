// Sums over the taps of a depthwise window, for rows of turned planes: convolved, and correlated.
#pragma once

#include <type_traits>

#include "vectors.h"

namespace {

// One row of sums: out[j * step] = sum over a and b of weights[a][b] * in[a][j * S + b], `blocks`
// times Q of them. All counted in vectors.
typedef void (*Row)(const float* in, int64_t width, int64_t rows, const float* weights, float* out,
                    int64_t step, int64_t blocks);

template <int T, int S, int Q>
void row(const float* in, int64_t width, int64_t rows, const float* weights, float* out,
         int64_t step, int64_t blocks) {
    for (int64_t block = 0; block < blocks; ++block) {
        Vec sums[Q] = {};
        for (int64_t a = 0; a < rows; ++a) {
            const float* from = in + (a * width + block * Q * S) * LANES;
            Vec own[T];
#pragma GCC unroll 8
            for (int b = 0; b < T; ++b) own[b] = load(weights + (a * T + b) * LANES);
#pragma GCC unroll 32
            for (int i = 0; i < (Q - 1) * S + T; ++i) {
                const Vec value = load(from + i * LANES);
#pragma GCC unroll 8
                for (int b = 0; b < T; ++b)
                    if (i >= b && (i - b) % S == 0 && (i - b) / S < Q)
                        sums[(i - b) / S] += value * own[b];
            }
        }
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q) store(out + (block * Q + q) * step * LANES, sums[q]);
    }
}

// sums[b] += gradient[r][j] * in[r][j * S + b] over `rows` rows and `blocks` times Q columns.
typedef void (*Correlate)(const float* in, int64_t in_step, const float* gradient,
                          int64_t gradient_step, int64_t rows, int64_t blocks, float* sums);

template <int T, int S, int Q>
void correlate(const float* in, int64_t in_step, const float* gradient, int64_t gradient_step,
               int64_t rows, int64_t blocks, float* sums) {
    constexpr int WAYS = MANY_REGISTERS && Q > 1 ? 2 : 1;  // more sums than a product takes to finish
    Vec own[WAYS][T] = {};
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t block = 0; block < blocks; ++block) {
            const float* from = in + (r * in_step + block * Q * S) * LANES;
            const float* slope = gradient + (r * gradient_step + block * Q) * LANES;
            Vec g[Q];
#pragma GCC unroll 8
            for (int q = 0; q < Q; ++q) g[q] = load(slope + q * LANES);
#pragma GCC unroll 32
            for (int i = 0; i < (Q - 1) * S + T; ++i) {
                const Vec value = load(from + i * LANES);
#pragma GCC unroll 8
                for (int b = 0; b < T; ++b)
                    if (i >= b && (i - b) % S == 0 && (i - b) / S < Q)
                        own[(i - b) / S % WAYS][b] += value * g[(i - b) / S];
            }
        }
    for (int b = 0; b < T; ++b) {
        Vec sum = load(sums + b * LANES) + own[0][b];
        if (WAYS == 2) sum += own[WAYS - 1][b];
        store(sums + b * LANES, sum);
    }
}

// make(a constant) for a number of outputs at once.
template <typename Make>
auto for_outputs(int64_t at_once, const Make& make) {
    switch (at_once) {
        case 1: return make(std::integral_constant<int, 1>());
        case 2: return make(std::integral_constant<int, 2>());
        case 4: return make(std::integral_constant<int, 4>());
        case 7: return make(std::integral_constant<int, 7>());
        default: return make(std::integral_constant<int, 8>());
    }
}

template <int T, int S>
Row row_of(int64_t at_once) {
    return for_outputs(at_once, [](auto q) -> Row { return row<T, S, decltype(q)::value>; });
}

Row row_for(int64_t taps, int stride, int64_t at_once) {
    switch (taps) {
        case 1: return row_of<1, 1>(at_once);
        case 2: return row_of<2, 1>(at_once);
        case 3: return stride == 1 ? row_of<3, 1>(at_once) : row_of<3, 2>(at_once);
        case 4: return row_of<4, 1>(at_once);
        case 5: return stride == 1 ? row_of<5, 1>(at_once) : row_of<5, 2>(at_once);
        default: return stride == 1 ? row_of<7, 1>(at_once) : row_of<7, 2>(at_once);
    }
}

template <int T, int S>
Correlate correlate_of(int64_t at_once) {
    return for_outputs(at_once, [](auto q) -> Correlate { return correlate<T, S, decltype(q)::value>; });
}

Correlate correlate_for(int taps, int stride, int64_t at_once) {
    switch (taps) {
        case 3: return stride == 1 ? correlate_of<3, 1>(at_once) : correlate_of<3, 2>(at_once);
        case 5: return stride == 1 ? correlate_of<5, 1>(at_once) : correlate_of<5, 2>(at_once);
        default: return stride == 1 ? correlate_of<7, 1>(at_once) : correlate_of<7, 2>(at_once);
    }
}

}  // namespace
