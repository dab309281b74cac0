// What the products of dense.cpp multiply: float32 numbers or, with BF16_PRODUCTS, pairs of bf16
// ones, which a processor with AVX512_BF16 multiplies and adds in one instruction.
//
// A pair lies along the sum: two rows of a column, or two pixels of a row. Values are rounded to
// bf16 (to the nearest, ties to even) where they are read; sums are float32. NaN and infinity stay
// what they are; denormal numbers count as zero in the pairs. With TILE_PRODUCTS as well, pairs are
// multiplied by the tile registers of AMX: tiles.h.
#pragma once

#include "vectors.h"

#if defined(BF16_PRODUCTS)
#if !defined(__AVX512BF16__)
#error "AVX512_BF16 is not an instruction set of this processor, or unknown to this compiler"
#endif
#include <immintrin.h>

typedef int32_t Element;
typedef __m512i Elements;
constexpr int64_t AT_ONCE = 2;  // numbers of an element
#if defined(TILE_PRODUCTS)
constexpr int64_t TOGETHER = 32;  // numbers of a sum that are multiplied at once
#else
constexpr int64_t TOGETHER = AT_ONCE;
#endif

static inline Elements load_elements(const Element* from) { return _mm512_loadu_si512(from); }
static inline Elements spread(const Element* from) { return _mm512_set1_epi32(*from); }
static inline Vec plus_product(Vec sum, Elements a, Elements b) {
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

// The numbers of a row: 2 * LANES of them.
static inline Elements along(const float* from) {
    return (Elements)_mm512_cvtne2ps_pbh((__m512)load(from + LANES), (__m512)load(from));
}

// Those of two rows, column by column.
static inline Elements across(Vec upper, Vec lower) {
    const Elements both = (Elements)_mm512_cvtne2ps_pbh((__m512)lower, (__m512)upper);
#define TWO_ROWS(i) (16 + (i)) * 65536 + (i)
    return _mm512_permutexvar_epi16((__m512i)Mask{EACH_LANE(TWO_ROWS)}, both);
#undef TWO_ROWS
}

static inline void store_elements(Element* to, Elements value) { _mm512_storeu_si512(to, value); }

#else

typedef float Element;
typedef Vec Elements;
constexpr int64_t AT_ONCE = 1, TOGETHER = 1;

static inline Elements load_elements(const Element* from) { return load(from); }
static inline Elements spread(const Element* from) { return splat(*from); }
static inline Vec plus_product(Vec sum, Elements a, Elements b) { return sum + a * b; }
static inline Elements along(const float* from) { return load(from); }
static inline void store_elements(Element* to, Elements value) { store(to, value); }

#endif
