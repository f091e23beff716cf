// The operations, for the instruction set that this file is compiled for.
#include "kernels.h"

#include "attention.h"
#include "heads.h"
#include "packing.h"
#include "peak.h"
#include "scores.h"

namespace TRIPTYCH_ISA {
namespace {

INLINE float* floats(const Run& run, int buffer, int64_t row, int64_t width) {
    return buffer == NONE ? nullptr : (float*)run.buffers[buffer] + row * width;
}

void make_rows(const Operation& op, const Run& run, Operands operands, int first, int behind,
               float* scratch) {
    const int64_t padded = (op.width + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    for (int row = first; row < behind; ++row) {
        float* output = floats(run, op.output, row, padded);
        char* operand =
            op.operand == NONE ? nullptr : operands.write + row * operand_bytes(op.format, padded);
        if (op.kind == ACTIVATE) {
            activate(op, floats(run, op.input, row, padded * (op.gated ? 2 : 1)), (int)padded, output,
                     operand, scratch);
            continue;
        }
        const float* input = floats(run, op.input, row, padded);
        float* to = output && !op.add ? output : scratch;
        normalise(input, to, op.width, op.norm, op.eps, op.weight, op.bias);
        for (int64_t i = op.width; i < padded; ++i) to[i] = 0;
        if (op.add)
            for (int64_t i = 0; i < padded; i += LANES) store(output + i, load(output + i) + load(to + i));
        if (operand) write_operand(operand, op.add ? output : to, (int)padded, op.format);
    }
}

void rows(const Operation& op, const Run& run, Operands operands, int first, int behind, float* scratch) {
    if (op.kind != HEADS) return make_rows(op, run, operands, first, behind, scratch);
    const int64_t padded = (op.width + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const auto make = op.heads->format == FLOAT32 ? make_heads<Single> : make_heads<Pair>;
    make(op, run, operands.write, first, behind, floats(run, op.input, 0, padded), padded);
}

static_assert(PANEL == GROUP && TILE_ROWS <= LANES);  // a tile has a group of each of its rows

// What becomes of a tile: rows [row, end) of panel `at`.
void finish_tile(const Operation& op, const Run& run, char* operands, int row, int end, int at, float* tile) {
    if (op.heads) {
        const auto place = op.heads->format == FLOAT32 ? place_heads<Single> : place_heads<Pair>;
        return place(op, run, operands, row, end, at, tile);
    }
    const int64_t padded = (op.width + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const int64_t stride = operand_bytes(op.format, padded);
    const bool whole = op.operand != NONE && op.format == INT8;  // tiles: their rows are rounded together
    for (int i = row; i < end; ++i) {
        char* operand = op.operand == NONE || whole ? nullptr : operands + i * stride;
        finish(op, tile + (i - row) * PANEL, at, floats(run, op.output, i, padded), operand);
    }
    if (whole) write_int8_groups(operands + row * stride, stride, (int)padded, at, tile, end - row);
}

void product(const Operation& op, const Run& run, Operands operands, int first, int behind, int panel,
             int last, char* scratch) {
    const Weight& matrix = *op.matrix;
    const int64_t stride = operand_bytes(matrix.operand, matrix.inputs), panel_bytes = bytes_of_panel(matrix);
    alignas(64) float results[TILE_ROWS * PANEL];
    const auto done = [&](int row, int end, int at, float* tile) {
        finish_tile(op, run, operands.write, row, end, at, tile);
    };
    const Item item{matrix, operands.read, stride, first, behind, panel, last};
    if (is_blocks(matrix.format)) return multiply_blocks(item, scratch, results, done);
    item.walk([&](int tile, int at) {
        const int row = item.start(tile), end = item.start(tile + 1);
        const char* data = (const char*)matrix.data + at * panel_bytes;
        // The next rows, or of the next panel a half by each of the first two tiles.
        const char* panel_ahead = tile > 1 ? data : data + panel_bytes + tile * panel_bytes / 2;
        const char* ahead = item.many() ? operands.read + end * stride : panel_ahead;
        const Tile what{operands.read + row * stride, stride, data, ahead, matrix.inputs};
        multiply_rows<TILE_ROWS>(end - row, matrix.format, what, results);
        done(row, end, at, results);
    });
}

void part(const Operation& op, const Run& run, Operands operands, Attention& attention, int index,
          char* scratch) {
    if (op.heads->format == FLOAT32)
        attend<Single>(op, run, operands, attention, index, scratch);
    else
        attend<Pair>(op, run, operands, attention, index, scratch);
}

int64_t bytes_of_operand(int32_t format, int64_t width) { return operand_bytes(format, width); }

}  // namespace
}  // namespace TRIPTYCH_ISA

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

const Kernels* JOIN(kernels_, TRIPTYCH_ISA)() {
    using namespace TRIPTYCH_ISA;
    static const Kernels kernels{
        TEXT(TRIPTYCH_ISA),
        TILE_ROWS,
        bytes_of_operand,
        rows,
        product,
        part,
        bytes_of_panel,
        pack,
        unpack,
        multiply_as_fast_as_possible,
        survey_row,
    };
    return &kernels;
}
