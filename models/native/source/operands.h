// Rows as matrix products take them.
#pragma once
#include <limits>

#include "program.h"
#include "simd.h"

namespace TRIPTYCH_ISA {

// That every step of a matrix's block without a least weight of its own is away from zero.
constexpr int CENTRE = 128;

// Bytes of a row of an operand. INT8: the bytes, then of each group of inputs its scale, the sum of its bytes
// times -CENTRE, and what that sum stands for, each in its own array.
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

// -> the sum of the bytes, which are zero where the largest is infinite or no number: the scale is, then,
// too.
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

// A row of bytes and what belongs to them.
struct ByteRow {
    int8_t* bytes;
    float* scales;
    int32_t* centring;
    float* totals;

    ByteRow(char* to, int width)
        : bytes((int8_t*)to),
          scales((float*)(to + width)),
          centring((int32_t*)(scales + width / GROUP)),
          totals((float*)(centring + width / GROUP)) {}

    INLINE void write(int group, const float* numbers, float step, float inverse) const {
        const bool finite = step <= std::numeric_limits<float>::max();
        const int32_t sum = write_steps(bytes + group * GROUP, numbers, inverse, finite);
        scales[group] = step;
        centring[group] = sum * -CENTRE;
        totals[group] = step * (float)sum;
    }
};

// Calls `write(i, numbers(i), step, inverse)` for up to LANES groups: that many divisions at once.
template <class Numbers, class Write>
INLINE void round_groups(int count, Numbers numbers, Write write) {
    float peaks[LANES]{}, inverses[LANES], steps[LANES];
    for (int i = 0; i < count; ++i) peaks[i] = peak_of(numbers(i));
    const Floats peak = load(peaks);
    store(steps, peak / all(127.0f));
    store(inverses, choose(peak > Floats{}, all(127.0f) / peak, Floats{}));
    for (int i = 0; i < count; ++i) write(i, numbers(i), steps[i], inverses[i]);
}

INLINE void write_int8(char* to, const float* row, int width) {
    const ByteRow bytes(to, width);
    const int groups = width / GROUP;
    for (int first = 0; first < groups; first += LANES)
        round_groups(
            groups - first < LANES ? groups - first : LANES, [&](int i) { return row + (first + i) * GROUP; },
            [&](int i, const float* numbers, float step, float inverse) {
                bytes.write(first + i, numbers, step, inverse);
            });
}

// `group` of some rows, up to LANES of them, which lie one after the other, to operands `stride` bytes apart.
INLINE void write_int8_groups(char* to, int64_t stride, int width, int group, const float* rows, int count) {
    round_groups(
        count, [&](int i) { return rows + i * GROUP; },
        [&](int i, const float* numbers, float step, float inverse) {
            ByteRow(to + i * stride, width).write(group, numbers, step, inverse);
        });
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
