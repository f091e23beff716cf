// How fast this processor multiplies where nothing has to be fetched: what products are measured against.
#pragma once
#include "program.h"
#include "simd.h"

namespace TRIPTYCH_ISA {

// What is in `v` could be anything from here on: nothing may be worked out beforehand.
template <class Vector>
INLINE void forget(Vector& v) {
#if defined(__x86_64__)
    asm volatile("" : "+x"(v));
#else
    asm volatile("" : "+w"(v));
#endif
}

constexpr int CHAINS = LANES == 16 ? 16 : 8;  // independent ones, so that none waits for itself

// -> multiplications and additions done, counted one by one. `sink` keeps the work from being left out.
template <class Word>
inline int64_t multiply_registers(int64_t rounds, float* sink) {
    Floats sums[CHAINS];
    UNROLL for (int chain = 0; chain < CHAINS; ++chain) sums[chain] = all((float)chain);
    Ints w = all_words(0x3f803f80), x = all_words(0x3f813f81);
    for (int64_t round = 0; round < rounds; ++round) {
        forget(x);
        UNROLL for (int chain = 0; chain < CHAINS; ++chain) sums[chain] = Word::dot(sums[chain], w, x);
    }
    for (int chain = 0; chain < CHAINS; ++chain) *sink += sum(sums[chain]);
    return rounds * CHAINS * LANES * Word::PER_WORD * 2;
}

inline int64_t multiply_bytes_in_registers(int64_t rounds, float* sink) {
    Ints sums[CHAINS];
    UNROLL for (int chain = 0; chain < CHAINS; ++chain) sums[chain] = all_words(chain);
    Ints w = all_words(0x01020304), x = all_words(0x01010101);
    for (int64_t round = 0; round < rounds; ++round) {
        forget(x);
        UNROLL for (int chain = 0; chain < CHAINS; ++chain) sums[chain] = dot_bytes(sums[chain], w, x);
    }
    for (int chain = 0; chain < CHAINS; ++chain) *sink += (float)sum_words(sums[chain]);
    return rounds * CHAINS * LANES * 4 * 2;
}

// Operations of `rounds` in the arithmetic of a matrix format.
inline int64_t multiply_as_fast_as_possible(int32_t format, int64_t rounds, float* sink) {
    switch (format) {
        case FLOAT32:
            return multiply_registers<Single>(rounds, sink);
        case BFLOAT16:
            return multiply_registers<Pair>(rounds, sink);
        default:
            return multiply_bytes_in_registers(rounds, sink);
    }
}

}  // namespace TRIPTYCH_ISA
