// Matrices from rows to panels, and back row by row.
#pragma once
#include "block_product.h"
#include "tiles.h"

namespace TRIPTYCH_ISA {

inline int64_t bytes_of_panel(const Weight& matrix) {
    const int64_t elements = (int64_t)matrix.inputs * PANEL;
    switch (matrix.format) {
        case FLOAT32:
            return elements * 4;
        case BFLOAT16:
            return elements * 2;
        default:
            return for_blocks(matrix.format, [&](auto kind) {
                return elements / PANEL / GROUP * decltype(kind)::Type::SIZE;
            });
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

// Inputs that share a word lie together.
INLINE int64_t place_of(int per_word, int within, int input) {
    return (int64_t)(input / per_word) * PANEL * per_word + within * per_word + input % per_word;
}

// One row, rounded to blocks.
inline void pack_rounded(const Weight& matrix, char* panel, int within, const uint8_t* row,
                         int32_t row_format, int inputs) {
    for (int group = 0; group * GROUP < inputs; ++group) {
        float values[GROUP];
        widen_group(row_format, row, group, inputs, values);
        RawBlock block;
        round_block(matrix.format, values, block);
        place_block(matrix.format, panel, within, group, block.bytes);
    }
}

// The rows of a panel, null for what pads it. Blocks of the same kind stay what they are, others are rounded.
inline void pack_blocks(const Weight& matrix, char* panel, const uint8_t* const* rows, int32_t rows_format,
                        int inputs) {
    memset(panel, 0, bytes_of_panel(matrix));
    for (int within = 0; within < PANEL; ++within) {
        if (!rows[within]) continue;
        if (rows_format == matrix.format)
            place_row(matrix.format, panel, within, rows[within], inputs);
        else
            pack_rounded(matrix, panel, within, rows[within], rows_format, inputs);
    }
}

// Panel `index` of rows [outputs, inputs]. Blocks of a GGUF file stay what they are in a matrix of their
// kind.
inline void pack(const Weight& matrix, const void* rows, int32_t rows_format, int outputs, int inputs,
                 void* data, int index) {
    const int64_t row_bytes = raw_row_bytes(rows_format, inputs);
    const uint8_t* each[PANEL];
    for (int within = 0; within < PANEL; ++within) {
        const int row = row_at(matrix, index * PANEL + within, outputs);
        each[within] = row < outputs ? (const uint8_t*)rows + row * row_bytes : nullptr;
    }
    char* panel = (char*)data + index * bytes_of_panel(matrix);
    if (is_blocks(matrix.format))
        pack_blocks(matrix, panel, each, rows_format, inputs);
    else
        pack_tiles(matrix, panel, each, rows_format, inputs);
}

// Row `index` of a packed matrix, as floats [inputs]: the numbers that products take.
inline void unpack(const Weight& matrix, int index, float* row) {
    const char* panel = (const char*)matrix.data + index / PANEL * bytes_of_panel(matrix);
    const int within = index % PANEL;
    if (is_blocks(matrix.format)) return unpack_blocks(matrix, panel, within, row);
    for (int i = 0; i < matrix.inputs; ++i) {
        if (matrix.format == FLOAT32)
            row[i] = ((const float*)panel)[place_of(1, within, i)];
        else
            row[i] = from_bf16(((const uint16_t*)panel)[place_of(2, within, i)]);
    }
}

}  // namespace TRIPTYCH_ISA
