// What one instruction set can do. `kernels.cpp` is compiled once for each, and gives one of these.
#pragma once
#include "plan.h"
#include "survey.h"

// Up to so many, a thread makes an operand by itself rather than wait for others.
constexpr int MANY_ROWS = 128;  // of an operand: from then on it is worth while to divide it, too
constexpr int PRIVATE_ROWS = 4;

// Where an operation's operand lies: shared by all threads, or the thread's own.
struct Operands {
    char* read;
    char* write;
};

struct Kernels {
    const char* name;
    int tile_rows;
    int64_t (*operand_bytes)(int32_t format, int64_t width);
    // Rows [first, behind) of NORMALISE, ACTIVATE and HEADS; `scratch` is the thread's, of a row's width.
    void (*rows)(const Operation&, const Run&, Operands, int first, int behind, float* scratch);
    // Rows [first, behind) of the outputs in panels [panel, last); `scratch` has room for an opened panel.
    void (*product)(const Operation&, const Run&, Operands, int first, int behind, int panel, int last,
                    char* scratch);
    void (*part)(const Operation&, const Run&, Operands, Attention&, int part, char* scratch);
    int64_t (*panel_bytes)(const Weight&);
    // Panel `index` of a matrix whose rows are floats, bfloat16 or blocks.
    void (*pack)(const Weight&, const void* rows, int32_t rows_format, int outputs, int inputs, void* data,
                 int index);
    // Row `index` of a packed matrix, as floats [inputs].
    void (*unpack)(const Weight&, int index, float* row);
    // Products of registers, so many rounds of them: how many multiplications and additions that was.
    int64_t (*peak)(int32_t format, int64_t rounds, float* sink);
    // Row `number` of those that are asked about.
    void (*survey)(const Survey&, int number);
};

const Kernels* kernels_plain();
#if defined(__x86_64__)
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
#endif
