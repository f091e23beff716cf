// From rows of any format to panels of floats or bfloat16, a tile at a time: the same GROUP inputs of all of
// a panel's outputs. Rows are read as they lie in the file, panels written as they lie in memory.
#pragma once
#include "block_packing.h"

namespace TRIPTYCH_ISA {

struct Tile32 {
    alignas(64) uint32_t words[PANEL][GROUP];  // of bfloat16, the first half of each row
};

INLINE int64_t raw_row_bytes(int32_t format, int inputs) {
    if (format == FLOAT32 || format == BFLOAT16) return (int64_t)inputs * (format == FLOAT32 ? 4 : 2);
    return raw_bytes(format) * (inputs / raw_inputs(format));
}

// ---- a group of a row: to the floats that it stands for, each rounded as little as the GGUF package does

INLINE void widen(const uint16_t* from, int count, float* values) {
    for (int i = 0; i < count; ++i) values[i] = from_bf16(from[i]);
}
INLINE void widen_bytes(const uint8_t* block, float* values) {
    const float scale = from_half(half_at(block));
    for (int i = 0; i < GROUP; ++i) values[i] = (float)(int8_t)block[2 + i] * scale;
}
// The low halves of 16 bytes are the first 16 steps, the high halves the others.
INLINE void widen_nibbles(const uint8_t* steps, float scale, float least, float* values) {
    for (int i = 0; i < GROUP / 2; ++i) {
        values[i] = (float)(steps[i] & 15) * scale + least;
        values[i + GROUP / 2] = (float)(steps[i] >> 4) * scale + least;
    }
}
INLINE void widen_centred(const uint8_t* steps, float scale, float* values) {
    for (int i = 0; i < GROUP / 2; ++i) {
        values[i] = (float)((steps[i] & 15) - 8) * scale;
        values[i + GROUP / 2] = (float)((steps[i] >> 4) - 8) * scale;
    }
}
// Of two groups of a nested block, one has the low halves of 32 bytes, and the next the high ones.
INLINE void widen_nested(const uint8_t* block, int index, float* values) {
    uint8_t scale, least;
    nested_scales(block + 4, index, &scale, &least);
    const float step = from_half(half_at(block)) * (float)scale,
                low = from_half(half_at(block + 2)) * (float)least;
    const uint8_t* steps = block + 16 + index / 2 * GROUP;
    for (int i = 0; i < GROUP; ++i)
        values[i] = (float)(index % 2 ? steps[i] >> 4 : steps[i] & 15) * step - low;
}

// `group` of a row of blocks.
INLINE void widen_block(int32_t format, const uint8_t* row, int group, float* values) {
    const int nested = raw_inputs(format) / GROUP;
    const uint8_t* block = row + group / nested * raw_bytes(format);
    switch (format) {
        case Q8_0:
            return widen_bytes(block, values);
        case Q4_0:
            return widen_centred(block + 2, from_half(half_at(block)), values);
        case Q4_1:
            return widen_nibbles(block + 4, from_half(half_at(block)), from_half(half_at(block + 2)), values);
        default:
            return widen_nested(block, group % nested, values);
    }
}

// `group` of a row of so many inputs; what is behind them is zero.
INLINE void widen_group(int32_t format, const uint8_t* row, int group, int inputs, float* values) {
    if (is_blocks(format)) return widen_block(format, row, group, values);
    const int first = group * GROUP, count = inputs - first < GROUP ? inputs - first : GROUP;
    if (format == FLOAT32)
        memcpy(values, (const float*)row + first, count * 4);
    else
        widen((const uint16_t*)row + first, count, values);
    for (int i = count; i < GROUP; ++i) values[i] = 0;
}

// ---- a tile

INLINE void round_group(int32_t format, const float* values, uint32_t* words) {
    if (format == FLOAT32) {
        memcpy(words, values, GROUP * 4);
        return;
    }
    uint16_t halves[GROUP];
    for (int i = 0; i < GROUP; ++i) halves[i] = to_bf16(values[i]);
    memcpy(words, halves, sizeof halves);
}

// `row`: null for what pads the panel.
INLINE void fill_row(int32_t format, int32_t row_format, const uint8_t* row, int group, int inputs,
                     uint32_t* words) {
    if (!row || group * GROUP >= inputs) {
        memset(words, 0, GROUP * 4);
    } else if (format == BFLOAT16 && row_format == BFLOAT16 && (group + 1) * GROUP <= inputs) {
        memcpy(words, (const uint16_t*)row + group * GROUP, GROUP * 2);
    } else {
        float values[GROUP];
        widen_group(row_format, row, group, inputs, values);
        round_group(format, values, words);
    }
}

INLINE void write_tile(const Tile32& tile, int words, uint32_t* panel) {
    for (int word = 0; word < words; ++word)
        for (int within = 0; within < PANEL; ++within)
            panel[word * PANEL + within] = tile.words[within][word];
}

// Rows [PANEL], null where there is none, of `row_format` and so many inputs, to a panel of `matrix`.
inline void pack_tiles(const Weight& matrix, char* panel, const uint8_t* const* rows, int32_t row_format,
                       int inputs) {
    const int words = matrix.format == FLOAT32 ? GROUP : GROUP / 2;
    for (int group = 0; group < matrix.inputs / GROUP; ++group) {
        Tile32 tile;
        for (int within = 0; within < PANEL; ++within)
            fill_row(matrix.format, row_format, rows[within], group, inputs, tile.words[within]);
        write_tile(tile, words, (uint32_t*)panel + group * words * PANEL);
    }
}

}  // namespace TRIPTYCH_ISA
