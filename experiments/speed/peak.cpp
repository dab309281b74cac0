// The machine's peak, for roofline.py: products that are added to sums in registers, nothing else.
#include "vectors.h"

extern "C" float multiply_and_add(int64_t rounds) {
    constexpr int SUMS = 10;  // more than are on their way at once, and they fit the registers
    Vec sums[SUMS] = {};
    Vec own = kept(splat(0.5f));  // not known to the compiler, which else would not multiply
#pragma GCC unroll 10
    for (Vec& sum : sums) sum = kept(sum);
    for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 10
        for (int s = 0; s < SUMS; ++s) sums[s] += own * sums[s];
    Vec all{};
    for (const Vec& sum : sums) all += sum;
    return total(all);
}

// Multiplications of a round.
extern "C" int64_t products() { return 10 * LANES; }
