// Matrices in the layout that products read from beginning to end.
#pragma once
#include "rows.h"

namespace TRIPTYCH_ISA {

INLINE int64_t bytes_of_panel(const Weight& matrix) {
    const int64_t elements = (int64_t)matrix.inputs * PANEL;
    return matrix.format == FLOAT32 ? elements * 4 : matrix.format == BFLOAT16 ? elements * 2 : elements;
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
INLINE int64_t place_of(int per_word, int within, int input) { return (int64_t)(input / per_word) * PANEL * per_word + within * per_word + input % per_word; }

inline void pack_int8(uint8_t* panel, int within, const void* rows, int32_t rows_format, int64_t start, int inputs, int padded, float* scale) {
    float peak = 0;
    for (int i = 0; i < inputs; ++i) {
        const float size = __builtin_fabsf(element(rows, rows_format, start + i));
        peak = size > peak ? size : peak;
    }
    const float inverse = peak > 0 ? 127.0f / peak : 0.0f;
    *scale = peak / 127.0f;
    for (int i = 0; i < padded; ++i) {
        const float value = i < inputs ? element(rows, rows_format, start + i) * inverse : 0.0f;
        panel[place_of(4, within, i)] = (uint8_t)((int)__builtin_rintf(value) + 128);
    }
}

// Outputs [panel * PANEL, ...) for all panels of `data`; what pads is zero.
inline void pack(const Weight& matrix, const void* rows, int32_t rows_format, int outputs, int inputs, void* data, float* scales) {
    for (int place = 0; place < matrix.outputs; ++place) {
        const int row = row_at(matrix, place, outputs), within = place % PANEL;
        char* panel = (char*)data + place / PANEL * bytes_of_panel(matrix);
        const int64_t start = (int64_t)row * inputs;
        const int there = row < outputs ? inputs : 0;
        if (matrix.format == INT8) {
            pack_int8((uint8_t*)panel, within, rows, rows_format, start, there, matrix.inputs, scales + place);
            continue;
        }
        for (int i = 0; i < matrix.inputs; ++i) {
            const float value = i < there ? element(rows, rows_format, start + i) : 0.0f;
            if (matrix.format == FLOAT32) ((float*)panel)[place_of(1, within, i)] = value;
            else ((uint16_t*)panel)[place_of(2, within, i)] = to_bf16(value);
        }
    }
}

inline void unpack(const Weight& matrix, int index, float* row) {
    const char* panel = (const char*)matrix.data + index / PANEL * bytes_of_panel(matrix);
    const int within = index % PANEL;
    for (int i = 0; i < matrix.inputs; ++i) switch (matrix.format) {
        case FLOAT32: row[i] = ((const float*)panel)[place_of(1, within, i)]; break;
        case BFLOAT16: row[i] = from_bf16(((const uint16_t*)panel)[place_of(2, within, i)]); break;
        default: row[i] = (float)(((const uint8_t*)panel)[place_of(4, within, i)] - 128) * matrix.scales[index];
    }
}

}  // namespace TRIPTYCH_ISA
