// Matrix products: an operand [rows, inputs] times a matrix in panels, in tiles of a few rows by one panel.
//
// Each element is one chain of sums over the inputs, in order, whatever tile it is in: so it has the same
// bits alone and in a batch.
#pragma once
#include "rows.h"

namespace TRIPTYCH_ISA {

constexpr int VECTORS = PANEL / LANES;  // of a panel's outputs
// As many rows as leave registers for a panel's words and one of the operand.
constexpr int TILE_ROWS = LANES == 16 ? 8 : LANES == 8 ? 2 : 1;

// What a tile is made from. `ahead` is what will be needed next: fetched while there is time.
struct Tile {
    const char* operand;
    int64_t stride;  // bytes from row to row
    const char* panel;
    const char* ahead;
    int inputs;
};

// -> results [ROWS][PANEL]
template <class Word, int ROWS>
INLINE void multiply(const Tile& tile, float* results) {
    Floats sums[ROWS][VECTORS];
    UNROLL for (int row = 0; row < ROWS; ++row) UNROLL for (int v = 0; v < VECTORS; ++v) sums[row][v] =
        Floats{};
    const int words = tile.inputs / Word::PER_WORD;
    const int32_t* panel = (const int32_t*)tile.panel;
    const char* ahead = tile.ahead;
    for (int word = 0; word < words; ++word, panel += PANEL, ahead += 64) {
        Ints weights[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; ++v) weights[v] = load_words(panel + v * LANES);
        if constexpr (ROWS <= 2) {  // the matrix comes from memory, and nothing else takes time
            __builtin_prefetch((const char*)panel + 4096);
            __builtin_prefetch((const char*)panel + 4096 + 64);
        } else {
            __builtin_prefetch(ahead, 0, 2);
        }
        UNROLL for (int row = 0; row < ROWS; ++row) {
            int32_t value;
            memcpy(&value, tile.operand + row * tile.stride + word * 4, 4);
            const Ints spread = all_words(value);
            UNROLL for (int v = 0; v < VECTORS; ++v) sums[row][v] =
                Word::dot(sums[row][v], weights[v], spread);
        }
    }
    UNROLL for (int row = 0; row < ROWS; ++row) UNROLL for (int v = 0; v < VECTORS; ++v)
        store(results + row * PANEL + v * LANES, sums[row][v]);
}

template <int ROWS>
INLINE void multiply_as(int32_t format, const Tile& tile, float* results) {
    if (format == FLOAT32) return multiply<Single, ROWS>(tile, results);
    multiply<Pair, ROWS>(tile, results);
}

template <int ROWS>
inline void multiply_rows(int rows, int32_t format, const Tile& tile, float* results) {
    if constexpr (ROWS == 1) {
        multiply_as<1>(format, tile, results);
    } else {
        if (rows == ROWS)
            multiply_as<ROWS>(format, tile, results);
        else
            multiply_rows<ROWS - 1>(rows, format, tile, results);
    }
}

// ---- what becomes of a tile

// One row of a tile [PANEL] to where the operation wants it; `panel` counts panels.
INLINE void finish(const Operation& op, float* tile, int panel, float* output, char* operand) {
    const Weight& matrix = *op.matrix;
    float* row = tile;
    if (matrix.bias)
        for (int i = 0; i < PANEL; i += LANES)
            store(row + i, load(row + i) + load(matrix.bias + panel * PANEL + i));
    int column = panel * PANEL, count = PANEL;
    if (matrix.gated && op.gated) {  // what is open of the second half
        column = panel * (PANEL / 2), count = PANEL / 2;
        for (int i = 0; i < count; i += LANES)
            store(row + i, apply(op.function, load(row + i)) * load(row + count + i));
    } else if (matrix.gated) {  // both halves, apart from each other
        const int half = matrix.outputs / 2, start = panel * (PANEL / 2);
        memcpy(output + start, row, PANEL / 2 * sizeof(float));
        memcpy(output + half + start, row + PANEL / 2, PANEL / 2 * sizeof(float));
        return;
    } else if (op.function != IDENTITY) {
        for (int i = 0; i < count; i += LANES) store(row + i, apply(op.function, load(row + i)));
    }
    if (output && op.add)
        for (int i = 0; i < count; i += LANES)
            store(output + column + i, load(output + column + i) + load(row + i));
    else if (output)
        memcpy(output + column, row, count * sizeof(float));
    if (operand) write_operand(operand + operand_bytes(op.format, column), row, count, op.format);
}

}  // namespace TRIPTYCH_ISA
