// What is done row by row: norms, functions.
#pragma once
#include "operands.h"

namespace TRIPTYCH_ISA {

// ---- norms

// Of `count` elements. Sums are taken lane by lane, and lanes added in a fixed order.
INLINE float total(const float* row, int count) {
    Floats sums{};
    int i = 0;
    for (; i + LANES <= count; i += LANES) sums += load(row + i);
    float rest = 0;
    for (; i < count; ++i) rest += row[i];
    return sum(sums) + rest;
}

INLINE float total_of_squares(const float* row, int count, float centre) {
    Floats sums{};
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Floats apart = load(row + i) - all(centre);
        sums = fma(apart, apart, sums);
    }
    float rest = 0;
    for (; i < count; ++i) rest += (row[i] - centre) * (row[i] - centre);
    return sum(sums) + rest;
}

// (row - mean) / deviation * weight + bias, or the same without mean and bias. In place is allowed.
inline void normalise(const float* row, float* to, int count, int32_t norm, float eps, const float* weight,
                      const float* bias) {
    if (norm == NO_NORM) {
        if (to != row) memcpy(to, row, count * sizeof(float));
        return;
    }
    const float centre = norm == LAYER_NORM ? total(row, count) / (float)count : 0.0f;
    const float inverse = 1.0f / __builtin_sqrtf(total_of_squares(row, count, centre) / (float)count + eps);
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        Floats value = (load(row + i) - all(centre)) * all(inverse);
        if (weight) value *= load(weight + i);
        if (bias) value += load(bias + i);
        store(to + i, value);
    }
    for (; i < count; ++i) {
        float value = (row[i] - centre) * inverse;
        if (weight) value *= weight[i];
        to[i] = bias ? value + bias[i] : value;
    }
}

// ---- functions

INLINE Floats apply(int32_t function, Floats x) {
    switch (function) {
        case GELU:
            return gelu(x);
        case GELU_TANH:  // (1 + tanh y) / 2 is a sigmoid: of 2 y
            return times_sigmoid(x, fma(x * x * x, all(0.044715f), x) * all(1.5957691f));
        case GELU_SIGMOID:
            return times_sigmoid(x, x * all(1.702f));
        case SILU:
            return times_sigmoid(x, x);
        case RELU:
            return larger(Floats{}, x);
        case RELU_SQUARED:
            return larger(Floats{}, x) * larger(Floats{}, x);
        case TANH:
            return tanh(x);
        default:
            return x;
    }
}

// A row [padded], or two halves of it [2, padded], through the function, to a row or an operand.
inline void activate(const Operation& op, const float* row, int padded, float* output, char* operand,
                     float* scratch) {
    float* to = output ? output : scratch;
    for (int i = 0; i < padded; i += LANES) {
        Floats value = apply(op.function, load(row + i));
        if (op.gated) value *= load(row + padded + i);
        store(to + i, value);
    }
    if (operand) write_operand(operand, to, padded, op.format);
}

// ---- caches

// Elements in the format of a cache.
template <class Word>
INLINE void narrow(typename Word::Element* to, const float* row, int count) {
    int i = 0;
    for (; i + LANES <= count; i += LANES) Word::write(to + i, load(row + i));
    for (; i < count; ++i) to[i] = Word::round(row[i]);
}

}  // namespace TRIPTYCH_ISA
