// Memory that a kernel works in. It begins with a cache line: a vector that lies in two of them costs
// two reads.
#pragma once

#include <cstdint>
#include <memory>
#include <new>

namespace {

constexpr std::align_val_t LINE{64};
struct Free {
    void operator()(void* memory) const { ::operator delete(memory, LINE); }
};
typedef std::unique_ptr<float[], Free> Scratch;

inline Scratch scratch(int64_t floats) { return Scratch((float*)::operator new(4 * floats, LINE)); }

}  // namespace
