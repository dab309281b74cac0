// Work on planes, or on pieces of them, each by itself: the threads share them, and results do not
// depend on how many these are.
#pragma once

#include <memory>

#include "vectors.h"

struct PlanesShape {
    int64_t n, c, size;  // size: pixels of a plane

    int64_t planes() const { return n * c; }
    int64_t values() const { return n * c * size; }
};

// work(number, its room of so many floats) for the numbers below `count`; `cost`: multiplications
// and additions of all of it. What is in the room before is not known.
template <typename Work>
void each(int64_t count, int64_t floats, int64_t cost, const Work& work) {
#pragma omp parallel num_threads(team(cost))
    {
        const std::unique_ptr<float[]> room(new float[floats]);
#pragma omp for schedule(static)
        for (int64_t number = 0; number < count; ++number) work(number, room.get());
    }
}
