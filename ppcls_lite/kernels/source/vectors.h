// Vectors of floats as wide as the machine's registers, without intrinsics: GCC and Clang lower
// their vector extension to AVX-512, AVX2, SSE or NEON. Included by all kernels.
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

// The value in a register: GCC else may read it from memory again for each of its uses.
static inline Vec kept(Vec value) {
#if defined(__x86_64__)
    asm("" : "+v"(value));
#elif defined(__aarch64__)
    asm("" : "+w"(value));
#endif
    return value;
}

// Lanes of two vectors by number: those of the second one count from LANES.
typedef int Mask __attribute__((vector_size(LANES * 4)));
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Mask{__VA_ARGS__})
#endif
#define FOUR(f, i) f(i), f(i + 1), f(i + 2), f(i + 3)
#if defined(__AVX512F__)
#define EACH_LANE(f) FOUR(f, 0), FOUR(f, 4), FOUR(f, 8), FOUR(f, 12)
#elif defined(__AVX__)
#define EACH_LANE(f) FOUR(f, 0), FOUR(f, 4)
#else
#define EACH_LANE(f) FOUR(f, 0)
#endif
#define EVEN_LANE(i) (2 * (i))
#define LAST_LANE(i) (2 * (i) + (i) * 2 / LANES)
#define LOW_LANE(i) ((i) / 2 + (i) % 2 * LANES)
#define HIGH_LANE(i) (LANES / 2 + (i) / 2 + (i) % 2 * LANES)
#define TURNED_LANE(i) (((i) + K) % LANES)

// LANES vectors as a square matrix, turned: each round interleaves its halves.
static inline void turned(Vec (&rows)[LANES]) {
#pragma GCC unroll 4
    for (int round = LANES; round > 1; round /= 2) {
        Vec next[LANES];
#pragma GCC unroll 8
        for (int i = 0; i < LANES / 2; ++i) {
            next[2 * i] = SHUFFLE(rows[i], rows[i + LANES / 2], EACH_LANE(LOW_LANE));
            next[2 * i + 1] = SHUFFLE(rows[i], rows[i + LANES / 2], EACH_LANE(HIGH_LANE));
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i) rows[i] = next[i];
    }
}

template <int K>
static inline Vec folded(Vec value) {
    return value + SHUFFLE(value, value, EACH_LANE(TURNED_LANE));
}

// The sum of the lanes, in an order that does not depend on anything.
static inline float total(Vec value) {
    if (LANES >= 16) value = folded<8 % LANES>(value);
    if (LANES >= 8) value = folded<4 % LANES>(value);
    return folded<1>(folded<2>(value))[0];
}

// Copy a few floats, as the rows of small planes are: a call of memcpy costs as much as the copy.
static inline void copy_row(const float* from, float* to, int64_t count) {
    int64_t i = 0;
    if (count >= LANES) {
        for (; i + LANES < count; i += LANES) store(to + i, load(from + i));
        store(to + count - LANES, load(from + count - LANES));
    } else if (count >= 8) {
        std::memcpy(to, from, 32);
        std::memcpy(to + count - 8, from + count - 8, 32);
    } else if (count >= 4) {
        std::memcpy(to, from, 16);
        std::memcpy(to + count - 4, from + count - 4, 16);
    } else {
        for (; i < count; ++i) to[i] = from[i];
    }
}

// to[i] = from[2 * i]; nothing is read behind the last of them.
static inline void take_every_second(const float* from, float* to, int64_t count) {
    int64_t i = 0;
    if (count >= LANES) {
        for (; i + LANES < count; i += LANES) {
            Vec a = load(from + 2 * i), b = load(from + 2 * i + LANES);
            store(to + i, SHUFFLE(a, b, EACH_LANE(EVEN_LANE)));
        }
        i = count - LANES;  // the last vector overlaps; its second half begins one float earlier
        Vec a = load(from + 2 * i), b = load(from + 2 * i + LANES - 1);
        store(to + i, SHUFFLE(a, b, EACH_LANE(LAST_LANE)));
    } else {
        for (; i < count; ++i) to[i] = from[2 * i];
    }
}

// to[2 * i] = a[i] and to[2 * i + 1] = b[i], in whole vectors: all three have room for that.
static inline void interleave(const float* a, const float* b, float* to, int64_t count) {
    for (int64_t i = 0; i < count; i += LANES) {
        Vec left = load(a + i), right = load(b + i);
        store(to + 2 * i, SHUFFLE(left, right, EACH_LANE(LOW_LANE)));
        store(to + 2 * i + LANES, SHUFFLE(left, right, EACH_LANE(HIGH_LANE)));
    }
}

// How many threads a kernel of so many multiplications and additions is computed by: process.cpp.
extern "C" int team(int64_t work);

template <typename Int>
static inline Int round_up(Int value, Int unit) {
    return (value + unit - 1) / unit * unit;
}
