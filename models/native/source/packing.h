// Matrices from rows to panels, and back row by row.
#pragma once
#include "block_product.h"
#include "block_packing.h"

namespace TRIPTYCH_ISA {

INLINE int64_t bytes_of_panel(const Weight& matrix) {
    const int64_t elements = (int64_t)matrix.inputs * PANEL;
    switch (matrix.format) {
        case FLOAT32: return elements * 4;
        case BFLOAT16: return elements * 2;
        default: return for_blocks(matrix.format, [&](auto kind) { return elements / PANEL / GROUP * decltype(kind)::Type::SIZE; });
    }
}

// The row of the matrix that is output `place` of all panels.
INLINE int row_at(const Weight& matrix, int place, int outputs) {
    if (!matrix.gated) return place;
    const int half = outputs / 2, panel = place / PANEL, within = place % PANEL;
    const int row = panel * (PANEL / 2) + within % (PANEL / 2);
    if (row >= half) return outputs;  // padding
    return within < PANEL / 2 ? row : half + row;
}

INLINE float element(const void* rows, int32_t format, int64_t index) {
    return format == FLOAT32 ? ((const float*)rows)[index] : from_bf16(((const uint16_t*)rows)[index]);
}

// Inputs that share a word lie together.
INLINE int64_t place_of(int per_word, int within, int input) {
    return (int64_t)(input / per_word) * PANEL * per_word + within * per_word + input % per_word;
}

// One row of floats or bfloat16; what pads is zero.
inline void pack_elements(const Weight& matrix, char* panel, int within, const void* rows, int32_t format, int64_t start, int inputs) {
    for (int i = 0; i < matrix.inputs; ++i) {
        const float value = i < inputs ? element(rows, format, start + i) : 0.0f;
        if (matrix.format == FLOAT32) ((float*)panel)[place_of(1, within, i)] = value;
        else ((uint16_t*)panel)[place_of(2, within, i)] = to_bf16(value);
    }
}

// One row, rounded to blocks.
inline void pack_rounded(const Weight& matrix, char* panel, int within, const void* rows, int32_t format, int64_t start, int inputs) {
    for (int first = 0; first < inputs; first += GROUP) {
        float values[GROUP] = {};
        for (int i = 0; i < GROUP && first + i < inputs; ++i) values[i] = element(rows, format, start + first + i);
        RawBlock block;
        round_block(matrix.format, values, block);
        place_block(matrix.format, panel, within, first / GROUP, block.bytes);
    }
}

// Rows [outputs, inputs] of `rows_format` to all panels of `data`. Blocks, as in a GGUF file, stay what they are.
inline void pack(const Weight& matrix, const void* rows, int32_t rows_format, int outputs, int inputs, void* data) {
    const int64_t panel_bytes = bytes_of_panel(matrix), row_bytes = raw_bytes(matrix.format) * (inputs / raw_inputs(matrix.format));
    if (is_blocks(matrix.format)) memset(data, 0, panel_bytes * (matrix.outputs / PANEL));  // what pads is zero
    for (int place = 0; place < matrix.outputs; ++place) {
        const int row = row_at(matrix, place, outputs), within = place % PANEL;
        char* panel = (char*)data + place / PANEL * panel_bytes;
        const int there = row < outputs ? inputs : 0;
        if (!is_blocks(matrix.format)) pack_elements(matrix, panel, within, rows, rows_format, (int64_t)row * inputs, there);
        else if (!is_blocks(rows_format)) pack_rounded(matrix, panel, within, rows, rows_format, (int64_t)row * inputs, there);
        else if (there) place_row(matrix.format, panel, within, (const uint8_t*)rows + row * row_bytes, inputs);
    }
}

// Row `index` of a packed matrix, as floats [inputs]: the numbers that products take.
inline void unpack(const Weight& matrix, int index, float* row) {
    const char* panel = (const char*)matrix.data + index / PANEL * bytes_of_panel(matrix);
    const int within = index % PANEL;
    if (is_blocks(matrix.format)) return unpack_blocks(matrix, panel, within, row);
    for (int i = 0; i < matrix.inputs; ++i) {
        if (matrix.format == FLOAT32) row[i] = ((const float*)panel)[place_of(1, within, i)];
        else row[i] = from_bf16(((const uint16_t*)panel)[place_of(2, within, i)]);
    }
}

}  // namespace TRIPTYCH_ISA
