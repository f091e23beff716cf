// Softmax(Q K^T * scale) V over the cache: Vaswani et al. 2017, eq. 1; in parts as in Dao et al. 2022,
// arXiv 2205.14135, whose partial results are joined by their maxima.
//
// A part is a few queries of a sequence, all heads that share a key head, and CHUNK keys from a multiple of
// CHUNK on. Where chunks begin does not depend on the step, nor does the order in which they are joined: a
// query has the same bits generated one by one or computed with a whole prompt.
#pragma once
#include "plan.h"
#include "product.h"

namespace TRIPTYCH_ISA {

constexpr int BLOCK_VECTORS = BLOCK_TOKENS / LANES;
constexpr int WIDTH = LANES == 16 ? 4 : 2;  // vectors of a value head at a time
constexpr int SCORE_ROWS = LANES == 16 ? 12 : 2;
constexpr int VALUE_ROWS = LANES == 16 ? 6 : 2;

struct Block {
    const char *keys, *values;
};

// Scores of ROWS queries and BLOCKS blocks of keys, to rows of CHUNK.
template <class Word, int ROWS, int BLOCKS>
INLINE void score(const char* queries, int64_t stride, int words, const Block* blocks, float* scores) {
    Floats sums[ROWS][BLOCKS * BLOCK_VECTORS];
    UNROLL for (int row = 0; row < ROWS; ++row) UNROLL for (int v = 0; v < BLOCKS * BLOCK_VECTORS; ++v)
        sums[row][v] = Floats{};
    for (int word = 0; word < words; ++word) {
        Ints keys[BLOCKS * BLOCK_VECTORS];
        UNROLL for (int b = 0; b < BLOCKS; ++b) UNROLL for (int v = 0; v < BLOCK_VECTORS; ++v)
            keys[b * BLOCK_VECTORS + v] =
                load_words((const int32_t*)blocks[b].keys + word * BLOCK_TOKENS + v * LANES);
        UNROLL for (int row = 0; row < ROWS; ++row) {
            int32_t value;
            memcpy(&value, queries + row * stride + word * 4, 4);
            const Ints spread = all_words(value);
            UNROLL for (int v = 0; v < BLOCKS * BLOCK_VECTORS; ++v) sums[row][v] =
                Word::dot(sums[row][v], keys[v], spread);
        }
    }
    UNROLL for (int row = 0; row < ROWS; ++row) UNROLL for (int v = 0; v < BLOCKS * BLOCK_VECTORS; ++v)
        store(scores + row * CHUNK + v * LANES, sums[row][v]);
}

template <class Word, int ROWS>
INLINE void score_blocks(const char* queries, int64_t stride, int words, const Block* blocks, int count,
                         float* scores) {
    constexpr int TOGETHER = LANES < 16 ? 1 : ROWS <= 4 ? 4 : 2;
    int block = 0;
    for (; block + TOGETHER <= count; block += TOGETHER)
        score<Word, ROWS, TOGETHER>(queries, stride, words, blocks + block, scores + block * BLOCK_TOKENS);
    if constexpr (TOGETHER == 4)
        for (; block + 2 <= count; block += 2)
            score<Word, ROWS, 2>(queries, stride, words, blocks + block, scores + block * BLOCK_TOKENS);
    for (; block < count; ++block)
        score<Word, ROWS, 1>(queries, stride, words, blocks + block, scores + block * BLOCK_TOKENS);
}

template <class Word, int ROWS>
inline void score_rows(int rows, const char* queries, int64_t stride, int words, const Block* blocks,
                       int count, float* scores) {
    if constexpr (ROWS == 1) {
        score_blocks<Word, 1>(queries, stride, words, blocks, count, scores);
    } else {
        if (rows == ROWS)
            score_blocks<Word, ROWS>(queries, stride, words, blocks, count, scores);
        else
            score_rows<Word, ROWS - 1>(rows, queries, stride, words, blocks, count, scores);
    }
}

// ROWS of weights [CHUNK] times values, to rows of `padded` floats: WIDTH vectors of them.
template <class Word, int ROWS, int VECS>
INLINE void weigh(const char* weights, int padded, int column, const Block* blocks, int count, float* results,
                  int64_t results_stride) {
    constexpr int STEPS = BLOCK_TOKENS / Word::PER_WORD;
    Floats sums[ROWS][VECS];
    UNROLL for (int row = 0; row < ROWS; ++row) UNROLL for (int v = 0; v < VECS; ++v) sums[row][v] = Floats{};
    for (int block = 0; block < count; ++block) {
        const int32_t* values = (const int32_t*)blocks[block].values + column;
        const char* place = weights + block * STEPS * 4;
        for (int step = 0; step < STEPS; ++step, values += padded) {
            Ints words[VECS];
            UNROLL for (int v = 0; v < VECS; ++v) words[v] = load_words(values + v * LANES);
            UNROLL for (int row = 0; row < ROWS; ++row) {
                int32_t value;
                memcpy(&value, place + row * (CHUNK / Word::PER_WORD * 4) + step * 4, 4);
                const Ints spread = all_words(value);
                UNROLL for (int v = 0; v < VECS; ++v) sums[row][v] =
                    Word::dot(sums[row][v], words[v], spread);
            }
        }
    }
    UNROLL for (int row = 0; row < ROWS; ++row) UNROLL for (int v = 0; v < VECS; ++v)
        store(results + row * results_stride + column + v * LANES, sums[row][v]);
}

template <class Word, int ROWS>
INLINE void weigh_columns(const char* weights, int padded, const Block* blocks, int count, float* results,
                          int64_t stride) {
    int column = 0;
    for (; column + WIDTH * LANES <= padded; column += WIDTH * LANES)
        weigh<Word, ROWS, WIDTH>(weights, padded, column, blocks, count, results, stride);
    for (; column < padded; column += LANES)
        weigh<Word, ROWS, 1>(weights, padded, column, blocks, count, results, stride);
}

template <class Word, int ROWS>
inline void weigh_rows(int rows, const char* weights, int padded, const Block* blocks, int count,
                       float* results, int64_t stride) {
    if constexpr (ROWS == 1) {
        weigh_columns<Word, 1>(weights, padded, blocks, count, results, stride);
    } else {
        if (rows == ROWS)
            weigh_columns<Word, ROWS>(weights, padded, blocks, count, results, stride);
        else
            weigh_rows<Word, ROWS - 1>(rows, weights, padded, blocks, count, results, stride);
    }
}

// ---- between scores and weights

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

// Raw scores of some keys as the softmax takes them, where that is more than a scale; those not seen are
// minus infinity.
template <bool PLAIN>
INLINE Floats bent(const Heads& heads, int head, int position, Seen seen, int key, Floats score) {
    if constexpr (!PLAIN) {
        score *= all(heads.scale);
        if (heads.cap < __builtin_inff()) score = tanh(score / all(heads.cap)) * all(heads.cap);
        if (heads.bias) score += score_bias(heads, head, position, key);
    }
    if (key >= seen.first && key + LANES <= seen.behind) return score;
    const Floats place = counting() + all((float)key);
    const Ints hidden = (place < all((float)seen.first)) | (place >= all((float)seen.behind));
    return choose(hidden, all(-__builtin_inff()), score);
}

// A row of raw scores of the keys from `start` on to weights e^(s - max), in the cache's format.
// Returns max and sum; minus infinity and 0 where no key is seen. PLAIN: neither caps nor biases, so that the
// scale can wait.
template <class Word, bool PLAIN>
inline void soften(const Heads& heads, int head, int position, Seen seen, int start, int count, float* scores,
                   typename Word::Element* weights, float* max, float* sum_) {
    Floats most = all(-__builtin_inff());
    for (int i = 0; i < count; i += LANES) {
        const Floats value = bent<PLAIN>(heads, head, position, seen, start + i, load(scores + i));
        most = larger(value, most);
        store(scores + i, value);
    }
    const float scale = PLAIN ? heads.scale : 1.0f;
    *max = largest(most) * scale;
    Floats sums{};
    const Floats top = all(*max > -__builtin_inff() ? -*max : 0.0f);
    for (int i = 0; i < count; i += LANES) {
        const Floats weight = exp(fma(load(scores + i), all(scale), top));
        sums += weight;
        Word::write(weights + i, weight);
    }
    *sum_ = sum(sums);
}

// ---- a part, and what joins parts

// Rows of a part are queries times the heads of a group; results [rows][2 + padded_dim]: max, sum, values.
template <class Word>
inline void attend_part(const Heads& heads, const Part& part, const Tally& tally, const char* queries,
                        const View& view, const char* keys, const char* values, char* scratch) {
    using Element = typename Word::Element;
    const int group = heads.heads / heads.kv_heads, rows = tally.queries * group, padded = heads.padded_dim;
    const int64_t head_bytes = (int64_t)padded * BLOCK_TOKENS * sizeof(Element);
    float* scores = (float*)scratch;
    Element* weights = (Element*)(scores + SCORE_ROWS * CHUNK);
    const int slice = tally.slice, length = view.lengths[slice];
    const int first = part.first / BLOCK_TOKENS,
              count = (part.behind + BLOCK_TOKENS - 1) / BLOCK_TOKENS - first;
    Block blocks[CHUNK / BLOCK_TOKENS];
    const int32_t* table = view.blocks + view.tables[slice] + first;
    for (int i = 0; i < count; ++i) {
        const int64_t place = ((int64_t)table[i] * heads.kv_heads + tally.head) * head_bytes;
        blocks[i] = {keys + place, values + place};
        if (rows <= SCORE_ROWS)  // read once: fetch it before it is needed
            for (int64_t line = 0; line < head_bytes; line += 64)
                __builtin_prefetch(blocks[i].values + line, 0, 2);
    }
    const bool plain = heads.cap == __builtin_inff() && !heads.bias && heads.scale > 0;
    const int64_t stride = padded * (int64_t)sizeof(Element);
    const int64_t result_stride = padded + 2;
    for (int row = 0; row < rows; row += SCORE_ROWS) {
        const int some = rows - row < SCORE_ROWS ? rows - row : SCORE_ROWS;
        const int last_position = tally.position + (row + some - 1) / group;
        // Blocks that no row of these sees are left out: they would add zeros.
        int used = (seen_by(heads, last_position, length).behind + BLOCK_TOKENS - 1) / BLOCK_TOKENS - first;
        used = used < 0 ? 0 : used < count ? used : count;
        score_rows<Word, SCORE_ROWS>(some, queries + row * stride, stride, padded / Word::PER_WORD, blocks,
                                     used, scores);
        for (int i = 0; i < some; ++i) {
            const int position = tally.position + (row + i) / group,
                      head = tally.head * group + (row + i) % group;
            float* result = part.results + (row + i) * result_stride;
            const auto soften_row = plain ? soften<Word, true> : soften<Word, false>;
            soften_row(heads, head, position, seen_by(heads, position, length), first * BLOCK_TOKENS,
                       used * BLOCK_TOKENS, scores + i * CHUNK, weights + i * CHUNK, result, result + 1);
        }
        for (int i = 0; i < some; i += VALUE_ROWS)
            weigh_rows<Word, VALUE_ROWS>(some - i < VALUE_ROWS ? some - i : VALUE_ROWS,
                                         (const char*)(weights + i * CHUNK), padded, blocks, used,
                                         part.results + (row + i) * result_stride + 2, result_stride);
    }
}

INLINE float exp1(float x) {
    if (x < -87.3f) return 0.0f;
    return exp(all(x))[0];
}

// All parts of a tally's queries, in order, to the attended rows [tokens][heads * head_dim].
inline void join_parts(const Operation& op, const Heads& heads, const Tally& tally, const Part* parts,
                       int64_t first_row, float* output, char* operand, int64_t width) {
    const int group = heads.heads / heads.kv_heads, size = heads.head_dim, padded = heads.padded_dim;
    for (int row = 0; row < tally.queries * group; ++row) {
        const int64_t place = (int64_t)row * (padded + 2);
        float max = -__builtin_inff(), total = 0;
        for (int i = 0; i < tally.parts; ++i)
            max = parts[i].results[place] > max ? parts[i].results[place] : max;
        float* joined = parts[0].results + place + 2;  // in place: nobody else reads it any more
        for (int i = 0; i < tally.parts; ++i) {
            const float* part = parts[i].results + place;
            const float share = exp1(part[0] - max);
            total += share * part[1];
            for (int v = 0; v < padded; v += LANES)
                store(joined + v, fma(all(share), load(part + 2 + v), i ? load(joined + v) : Floats{}));
        }
        const float inverse = 1.0f / total;
        for (int v = 0; v < padded; v += LANES) store(joined + v, load(joined + v) * all(inverse));
        const int64_t token = first_row + row / group,
                      column = (int64_t)(tally.head * group + row % group) * size;
        if (output) memcpy(output + token * width + column, joined, size * sizeof(float));
        if (!operand) continue;
        char* to = operand + token * operand_bytes(op.format, width);
        if (op.format == FLOAT32)
            memcpy((float*)to + column, joined, size * sizeof(float));
        else
            narrow<Pair>((uint16_t*)to + column, joined, size);
    }
}

}  // namespace TRIPTYCH_ISA
