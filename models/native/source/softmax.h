// Between scores and weights: what a query sees, what is added to its scores, and the softmax of them.
#pragma once
#include <utility>

#include "plan.h"
#include "simd.h"

namespace TRIPTYCH_ISA {

// ---- functions

// 2^x with a relative error below 2e-7; exactly 0 for what is below -127, minus infinity too.
INLINE Floats two_to(Floats x) {
    const Floats magic = all(12582912.0f);  // 1.5 * 2^23: behind it, the whole part is in the lowest bits
    const Floats clamped = larger(all(-127.0f), x), shifted = clamped + magic;
    const Floats part = clamped - (shifted - magic);
    Floats power = all(1.32647271e-3f);  // least squares, weighted until the largest error is least
    power = fma(power, part, all(9.67151286e-3f));
    power = fma(power, part, all(5.55073375e-2f));
    power = fma(power, part, all(2.40222421e-1f));
    power = fma(power, part, all(6.93146978e-1f));
    power = fma(power, part, all(1.0f));
    return bits<Floats>(bits<Ints>(power) + (bits<Ints>(shifted) << 23));  // added to the exponent
}

INLINE float two_to(float x) { return two_to(all(x))[0]; }

template <int... PLACES>
INLINE Floats shuffled(Floats a, Floats b, std::integer_sequence<int, PLACES...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, PLACES...);
#else
    return __builtin_shuffle(a, b, Ints{PLACES...});
#endif
}

// Of segments of SPAN lanes, those of a and then those of b, the halves that begin at FIRST.
template <int SPAN, int FIRST, int... LANE>
INLINE Floats halves(Floats a, Floats b, std::integer_sequence<int, LANE...>) {
    constexpr int HALF = SPAN / 2;
    return shuffled(a, b, std::integer_sequence<int, (LANE / HALF * SPAN + LANE % HALF + FIRST)...>{});
}

// Each of COUNT vectors is joined within itself, its upper half with its lower, again and again: to a vector
// with COUNT segments. Of LANES vectors, lane i is what became of vector i.
template <int COUNT, class Join>
INLINE Floats fold(const Floats* vectors, Join join) {
    if constexpr (COUNT == 1) {
        return vectors[0];
    } else {
        constexpr int SPAN = 2 * LANES / COUNT;
        constexpr auto lanes = std::make_integer_sequence<int, LANES>{};
        const Floats a = fold<COUNT / 2>(vectors, join), b = fold<COUNT / 2>(vectors + COUNT / 2, join);
        return join(halves<SPAN, 0>(a, b, lanes), halves<SPAN, SPAN / 2>(a, b, lanes));
    }
}

// ---- what a query sees

// 0, 1, 2 …
INLINE Floats counting() {
    Floats vector;
    for (int i = 0; i < LANES; ++i) vector[i] = (float)i;
    return vector;
}

// What is added to the scores of the query at `position` and keys from `key` on.
INLINE Floats score_bias(const Heads& heads, int head, int position, int key) {
    switch (heads.bias) {
        case ALIBI:
            return (counting() + all((float)(key - position))) * all(heads.slopes[head]);
        case ALIBI_ROUNDED: {
            Floats heights;
            const float slope = heads.slopes[head];
            const float own = from_bf16(to_bf16(slope * from_bf16(to_bf16((float)position))));
            for (int i = 0; i < LANES; ++i)
                heights[i] = from_bf16(to_bf16(slope * from_bf16(to_bf16((float)(key + i))))) - own;
            return heights * all(heads.bias_scale);
        }
        case BY_DISTANCE: {
            Floats added;
            const int most = heads.distances;
            const float* table = heads.slopes + (int64_t)head * (2 * most + 1) + most;
            for (int i = 0; i < LANES; ++i) {
                const int distance = key + i - position;
                added[i] = table[distance < -most ? -most : distance > most ? most : distance];
            }
            return added;
        }
        default:
            return Floats{};
    }
}

// Where a row's keys begin and end, within [0, keys of the sequence).
struct Seen {
    int first, behind;
};

INLINE Seen seen_by(const Heads& heads, int position, int length) {
    Seen seen{0, length};
    if (heads.causal && position + 1 < length) seen.behind = position + 1;
    if (heads.window) {
        const int reach = heads.causal ? heads.window - 1 : heads.window;
        if (position - reach > 0) seen.first = position - reach;
        if (!heads.causal && position + reach + 1 < length) seen.behind = position + reach + 1;
    }
    return seen;
}

// ---- a row

// A row of scores: of one query and one head, with the keys from `start` on.
struct Row {
    int head, position, start;
    Seen seen;
};

// Whether scores only wait for their scale: there are neither caps nor biases.
INLINE bool is_plain(const Heads& heads) {
    return heads.cap == __builtin_inff() && !heads.bias && heads.scale > 0;
}

INLINE Floats bent(const Heads& heads, const Row& row, int key, Floats score) {
    score *= all(heads.scale);
    if (heads.cap < __builtin_inff()) score = tanh(score / all(heads.cap)) * all(heads.cap);
    return heads.bias ? score + score_bias(heads, row.head, row.position, key) : score;
}

INLINE Floats hidden(const Row& row, int key, Floats score) {
    const Floats place = counting() + all((float)key);
    const Ints unseen = (place < all((float)row.seen.first)) | (place >= all((float)row.seen.behind));
    return choose(unseen, all(-__builtin_inff()), score);
}

// Raw scores [count] as the softmax takes them, in place; those of keys that are not seen become minus
// infinity. Returns the largest, lane by lane.
template <bool PLAIN>
INLINE Floats bend(const Heads& heads, const Row& row, int count, float* scores) {
    Floats most = all(-__builtin_inff());
    for (int i = 0; i < count; i += LANES) {
        const int key = row.start + i;
        Floats score = load(scores + i);
        const bool whole = key >= row.seen.first && key + LANES <= row.seen.behind;
        if (!PLAIN) score = bent(heads, row, key, score);
        if (!whole) score = hidden(row, key, score);
        if (!PLAIN || !whole) store(scores + i, score);
        most = larger(score, most);
    }
    return most;
}

// Weights 2^(score * scale - top) in the cache's format. Returns their sum, lane by lane.
template <class Word>
INLINE Floats weights_of(const float* scores, int count, float scale, float top,
                         typename Word::Element* weights) {
    const Floats factor = all(scale), down = all(top > -__builtin_inff() ? -top : 0.0f);
    Floats sums{};
    for (int i = 0; i < count; i += LANES) {
        const Floats weight = two_to(fma(load(scores + i), factor, down));
        sums += weight;
        Word::write(weights + i, weight);
    }
    return sums;
}

// Rows of CHUNK raw scores, of which there are `count` each, to rows of weights. Of each, tops: the largest
// score, as a binary logarithm; sums: that of the weights. Where no key is seen, minus infinity and 0. There
// must be room for LANES of both, and what is behind the rows is lost.
template <class Word, bool PLAIN>
inline void soften(const Heads& heads, const Row* rows, int number, int count, float* scores,
                   typename Word::Element* weights, float* tops, float* sums) {
    constexpr float LOG2_E = 1.44269504f;
    const float scale = PLAIN ? heads.scale * LOG2_E : LOG2_E;
    Floats vectors[LANES];
    for (int i = number; i < LANES; ++i) vectors[i] = Floats{};
    for (int i = 0; i < number; ++i) vectors[i] = bend<PLAIN>(heads, rows[i], count, scores + i * CHUNK);
    store(tops, fold<LANES>(vectors, [](Floats a, Floats b) { return larger(a, b); }) * all(scale));
    for (int i = 0; i < number; ++i)
        vectors[i] = weights_of<Word>(scores + i * CHUNK, count, scale, tops[i], weights + i * CHUNK);
    store(sums, fold<LANES>(vectors, [](Floats a, Floats b) { return a + b; }));
}

}  // namespace TRIPTYCH_ISA
