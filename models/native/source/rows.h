// What is done row by row: norms, functions, heads.
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
            return x * all(0.5f) * (all(1.0f) + erf(x * all(0.70710678f)));
        case GELU_TANH: {
            const Floats bent = (x + x * x * x * all(0.044715f)) * all(0.79788456f);
            return x * all(0.5f) * (all(1.0f) + tanh(bent));
        }
        case GELU_SIGMOID:
            return x / (all(1.0f) + exp(-x * all(1.702f)));
        case SILU:
            return x / (all(1.0f) + exp(-x));
        case RELU:
            return larger(x, Floats{});
        case RELU_SQUARED:
            return larger(x, Floats{}) * larger(x, Floats{});
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

// ---- heads

// Turn each pair (i, i + size / 2): Su et al. 2021, arXiv 2104.09864.
INLINE void rotate(float* head, const float* cosines, const float* sines, int size) {
    int i = 0;
    for (; i + LANES <= size / 2; i += LANES) {
        const Floats first = load(head + i), second = load(head + i + size / 2);
        store(head + i, first * load(cosines + i) + second * load(sines + i));
        store(head + i + size / 2,
              second * load(cosines + i + size / 2) + first * load(sines + i + size / 2));
    }
    for (; i < size / 2; ++i) {
        const float first = head[i], second = head[i + size / 2];
        head[i] = first * cosines[i] + second * sines[i];
        head[i + size / 2] = second * cosines[i + size / 2] + first * sines[i + size / 2];
    }
}

// Clip, norm and rotation of `count` heads side by side, in place.
inline void prepare_heads(float* row, int count, const Heads& heads, const float* weight, const float* bias,
                          const float* cosines, const float* sines) {
    const int size = heads.head_dim;
    if (heads.clip < __builtin_inff())
        for (int i = 0; i < count * size; ++i) {
            const float cut = row[i] < -heads.clip ? -heads.clip : row[i];
            row[i] = cut > heads.clip ? heads.clip : cut;
        }
    if (heads.norm != NO_NORM) {
        const int span = heads.norm_span == size ? size : count * size;  // one head, or all of them
        for (int i = 0; i < count * size; i += span)
            normalise(row + i, row + i, span, heads.norm, heads.norm_eps, weight ? weight + i : nullptr,
                      bias ? bias + i : nullptr);
    }
    if (heads.rotated)
        for (int head = 0; head < count; ++head) rotate(row + head * size, cosines, sines, heads.rotated);
}

// Elements as the cache keeps them.
template <class Word>
INLINE void narrow(typename Word::Element* to, const float* row, int count) {
    int i = 0;
    for (; i + LANES <= count; i += LANES) Word::write(to + i, load(row + i));
    for (; i < count; ++i) to[i] = Word::round(row[i]);
}

// Calls `put(index, elements, count)` with LANES elements at a time of a head, as the cache keeps them.
template <class Word, class Put>
INLINE void narrow_by_parts(const float* head, int size, Put put) {
    for (int i = 0; i < size; i += LANES) {
        typename Word::Element part[LANES]{};
        const int count = size - i < LANES ? size - i : LANES;
        narrow<Word>(part, head + i, count);
        put(i, part, count);
    }
}

// A key to its place `token` in a block [padded_dim / per word][BLOCK_TOKENS] words.
template <class Word>
INLINE void write_key(typename Word::Element* block, const float* head, int size, int token) {
    constexpr int ELEMENTS = Word::PER_WORD;
    narrow_by_parts<Word>(head, size, [&](int first, const typename Word::Element* part, int count) {
        for (int i = 0; i < count; i += ELEMENTS)
            memcpy(block + (first + i) * BLOCK_TOKENS + token * ELEMENTS, part + i, sizeof(int32_t));
    });
}

// A value to its place in a block [BLOCK_TOKENS / per word][padded_dim] words, whose other half may be
// another thread's at this moment.
template <class Word>
INLINE void write_value(typename Word::Element* block, const float* head, int size, int padded, int token) {
    constexpr int ELEMENTS = Word::PER_WORD;
    typename Word::Element* words = block + token / ELEMENTS * padded * ELEMENTS + token % ELEMENTS;
    narrow_by_parts<Word>(head, size, [&](int first, const typename Word::Element* part, int count) {
        for (int i = 0; i < count; ++i) words[(first + i) * ELEMENTS] = part[i];
    });
}

// The places behind `token`: they are multiplied, by weights of zero, and must be numbers.
template <class Word>
INLINE void clear_values(typename Word::Element* block, int padded, int token) {
    for (int behind = token + 1; behind < BLOCK_TOKENS; ++behind) {
        typename Word::Element* pairs = block + behind / Word::PER_WORD * padded * Word::PER_WORD;
        for (int i = 0; i < padded; ++i) pairs[i * Word::PER_WORD + behind % Word::PER_WORD] = 0;
    }
}

// Queries [kv_heads][tokens * group][padded_dim]: those that share keys lie together.
template <class Word>
INLINE void write_queries(typename Word::Element* to, const float* row, const Heads& heads, int64_t token,
                          int64_t tokens) {
    const int group = heads.heads / heads.kv_heads, padded = heads.padded_dim;
    for (int head = 0; head < heads.heads; ++head, row += heads.head_dim) {
        typename Word::Element* place =
            to + ((head / group * tokens + token) * group + head % group) * padded;
        narrow<Word>(place, row, heads.head_dim);
        for (int i = heads.head_dim; i < padded; ++i) place[i] = 0;
    }
}

}  // namespace TRIPTYCH_ISA
