// Products with what the cache holds: queries times keys, weights times values, in tiles of a few rows by a
// few vectors.
//
// Each element is one chain of sums, over the elements of a head or over the keys in order, whatever tile it
// is in.
#pragma once
#include "plan.h"
#include "simd.h"

namespace TRIPTYCH_ISA {

constexpr int BLOCK_VECTORS = BLOCK_TOKENS / LANES;
// As many rows as leave registers for what they are multiplied with: four vectors, or two of the smaller
// ones.
constexpr int SCORE_ROWS = LANES == 16 ? 6 : 2;

struct Block {
    const char *keys, *values;
};

// Calls `tile(row, behind)` for as few tiles of nearly as many rows each as there are with `most` rows.
template <class Call>
INLINE void in_tiles(int rows, int most, Call tile) {
    const int tiles = (rows + most - 1) / most;
    for (int i = 0; i < tiles; ++i) tile(rows * i / tiles, rows * (i + 1) / tiles);
}

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
    int block = 0;
    if constexpr (LANES == 16) {
        for (; block + 4 <= count; block += 4)
            score<Word, ROWS, 4>(queries, stride, words, blocks + block, scores + block * BLOCK_TOKENS);
        for (; block + 2 <= count; block += 2)
            score<Word, ROWS, 2>(queries, stride, words, blocks + block, scores + block * BLOCK_TOKENS);
    }
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

// Any number of rows.
template <class Word>
INLINE void score_all(int rows, const char* queries, int64_t stride, int words, const Block* blocks,
                      int count, float* scores) {
    in_tiles(rows, SCORE_ROWS, [&](int row, int behind) {
        score_rows<Word, SCORE_ROWS>(behind - row, queries + row * stride, stride, words, blocks, count,
                                     scores + row * CHUNK);
    });
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

// As many rows together as leave registers for VECS vectors of values and a weight.
template <class Word, int ROWS, int VECS>
inline void weigh_rows(int rows, const char* weights, int padded, int column, const Block* blocks, int count,
                       float* results, int64_t stride) {
    if constexpr (ROWS == 1) {
        weigh<Word, 1, VECS>(weights, padded, column, blocks, count, results, stride);
    } else {
        if (rows == ROWS)
            weigh<Word, ROWS, VECS>(weights, padded, column, blocks, count, results, stride);
        else
            weigh_rows<Word, ROWS - 1, VECS>(rows, weights, padded, column, blocks, count, results, stride);
    }
}

template <class Word, int VECS>
INLINE void weigh_column(int rows, const char* weights, int padded, int column, const Block* blocks,
                         int count, float* results, int64_t stride) {
    constexpr int MOST = LANES < 16 ? 2 : VECS == 4 ? 6 : 12;
    in_tiles(rows, MOST, [&](int row, int behind) {
        weigh_rows<Word, MOST, VECS>(behind - row, weights + row * (CHUNK / Word::PER_WORD * 4), padded,
                                     column, blocks, count, results + row * stride, stride);
    });
}

template <class Word>
INLINE void weigh_all(int rows, const char* weights, int padded, const Block* blocks, int count,
                      float* results, int64_t stride) {
    int column = 0;
    if constexpr (LANES == 16)
        for (; column + 4 * LANES <= padded; column += 4 * LANES)
            weigh_column<Word, 4>(rows, weights, padded, column, blocks, count, results, stride);
    for (; column + 2 * LANES <= padded; column += 2 * LANES)
        weigh_column<Word, 2>(rows, weights, padded, column, blocks, count, results, stride);
    for (; column < padded; column += LANES)
        weigh_column<Word, 1>(rows, weights, padded, column, blocks, count, results, stride);
}

}  // namespace TRIPTYCH_ISA
