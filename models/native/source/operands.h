// Rows as matrix products take them.
#pragma once
#include <limits>

#include "program.h"
#include "simd.h"

namespace TRIPTYCH_ISA {

// Bytes of a row of an operand. INT8: the bytes, then of each group of inputs its scale, the sum of its bytes
// and what that sum stands for, each in its own array.
INLINE int64_t operand_bytes(int32_t format, int64_t width) {
    switch (format) {
        case FLOAT32:
            return width * 4;
        case BFLOAT16:
            return width * 2;
        default:
            return width + width / GROUP * 12;
    }
}

// ---- INT8: the largest of a group is 127 steps

// What is no number is larger than all others, so that it is not lost.
INLINE float peak_of(const float* group) {
    Ints most{};  // floats without a sign are in the order of their bits
    for (int i = 0; i < GROUP; i += LANES) {
        const Ints size = bits<Ints>(absolute(load(group + i)));
        most = size > most ? size : most;
    }
    return bits<float>(largest_word(most));
}

// -> the sum of the bytes, which are zero where the largest is infinite or no number: the scale is, then, too.
INLINE int32_t write_steps(int8_t* to, const float* group, float inverse, bool finite) {
    if (!finite) {
        memset(to, 0, GROUP);
        return 0;
    }
    Ints total{};
    for (int i = 0; i < GROUP; i += LANES) {
        const Ints steps = to_ints(load(group + i) * all(inverse));
        total += steps;
        store_bytes(to + i, steps);
    }
    return sum_words(total);
}

INLINE void write_int8(char* to, const float* row, int width) {
    const int groups = width / GROUP;
    int8_t* bytes = (int8_t*)to;
    float* scales = (float*)(to + width);
    int32_t* sums = (int32_t*)(scales + groups);
    float* totals = (float*)(sums + groups);
    for (int first = 0; first < groups; first += LANES) {  // that many divisions at once
        const int count = groups - first < LANES ? groups - first : LANES;
        float peaks[LANES]{}, inverses[LANES], steps[LANES];
        for (int i = 0; i < count; ++i) peaks[i] = peak_of(row + (first + i) * GROUP);
        const Floats peak = load(peaks);
        store(steps, peak / all(127.0f));
        store(inverses, choose(peak > Floats{}, all(127.0f) / peak, Floats{}));
        for (int i = 0; i < count; ++i) {
            const int group = first + i;
            const bool finite = steps[i] <= std::numeric_limits<float>::max();
            sums[group] = write_steps(bytes + group * GROUP, row + group * GROUP, inverses[i], finite);
            scales[group] = steps[i];
            totals[group] = steps[i] * (float)sums[group];
        }
    }
}

INLINE void write_operand(char* to, const float* row, int width, int32_t format) {
    if (format == FLOAT32) {
        memcpy(to, row, width * sizeof(float));
    } else if (format == BFLOAT16) {
        for (int i = 0; i < width; i += LANES) store_bf16((uint16_t*)to + i, load(row + i));
    } else {
        write_int8(to, row, width);
    }
}

}  // namespace TRIPTYCH_ISA
