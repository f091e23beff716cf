// The operations, for the instruction set that this file is compiled for.
#include "kernels.h"

#include "attention.h"
#include "packing.h"
#include "peak.h"
#include "scores.h"

namespace TRIPTYCH_ISA {
namespace {

INLINE float* floats(const Run& run, int buffer, int64_t row, int64_t width) {
    return buffer == NONE ? nullptr : (float*)run.buffers[buffer] + row * width;
}

void make_rows(const Operation& op, const Run& run, Operands operands, int first, int behind, float* scratch) {
    const int64_t padded = (op.width + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    for (int row = first; row < behind; ++row) {
        float* output = floats(run, op.output, row, padded);
        char* operand = op.operand == NONE ? nullptr : operands.write + row * operand_bytes(op.format, padded);
        if (op.kind == ACTIVATE) {
            activate(op, floats(run, op.input, row, padded * (op.gated ? 2 : 1)), (int)padded, output, operand, scratch);
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

template <class Word> void make_heads(const Operation& op, const Run& run, Operands operands, int first, int behind) {
    const Heads& heads = *op.heads;
    const View& view = run.views[op.view];
    const int queries = op.parts & 1 ? heads.heads : 0, keys = op.parts & 2 ? heads.kv_heads : 0;
    const int64_t padded = (op.width + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    using Element = typename Word::Element;
    const int64_t block_size = (int64_t)heads.padded_dim * BLOCK_TOKENS;
    int slice = 0;
    for (int row = first; row < behind; ++row) {
        float* input = floats(run, op.input, row, padded);
        const float *cosines = nullptr, *sines = nullptr;
        if (heads.rotated) {
            cosines = run.cosines[op.rotation] + (int64_t)row * heads.rotated;
            sines = run.sines[op.rotation] + (int64_t)row * heads.rotated;
        }
        if (queries) {
            prepare_heads(input, queries, heads, heads.query_norm, heads.query_norm_bias, cosines, sines);
            write_queries<Word>((Element*)operands.write, input, heads, row, run.tokens);
        }
        if (!keys) continue;
        float* key = input + queries * heads.head_dim;
        float* value = key + keys * heads.head_dim;
        prepare_heads(key, keys, heads, heads.key_norm, heads.key_norm_bias, cosines, sines);
        if (heads.clip < __builtin_inff())
            for (int i = 0; i < keys * heads.head_dim; ++i) value[i] = value[i] < -heads.clip ? -heads.clip : value[i] > heads.clip ? heads.clip : value[i];
        while (row >= view.rows[slice + 1]) ++slice;
        const int place = view.starts[slice] + row - view.rows[slice];
        const int64_t block = view.blocks[view.tables[slice] + place / BLOCK_TOKENS];
        const int token = place % BLOCK_TOKENS;
        const bool opens = row + 1 == view.rows[slice + 1] && place - token >= view.starts[slice];  // a block is new
        for (int head = 0; head < keys; ++head) {
            const int64_t start = (block * heads.kv_heads + head) * block_size;
            write_key<Word>((Element*)run.keys[op.layer] + start, key + head * heads.head_dim, heads.head_dim, token);
            write_value<Word>((Element*)run.values[op.layer] + start, value + head * heads.head_dim, heads.head_dim, heads.padded_dim, token);
            if (opens) clear_values<Word>((Element*)run.values[op.layer] + start, heads.padded_dim, token);
        }
    }
}

void rows(const Operation& op, const Run& run, Operands operands, int first, int behind, float* scratch) {
    if (op.kind != HEADS) return make_rows(op, run, operands, first, behind, scratch);
    if (op.heads->format == FLOAT32) make_heads<Single>(op, run, operands, first, behind);
    else make_heads<Pair>(op, run, operands, first, behind);
}

void product(const Operation& op, const Run& run, Operands operands, int first, int behind, int panel, int last, char* scratch) {
    const Weight& matrix = *op.matrix;
    const int64_t stride = operand_bytes(matrix.operand, matrix.inputs), panel_bytes = bytes_of_panel(matrix);
    const int64_t padded = (op.width + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    alignas(64) float results[TILE_ROWS * PANEL];
    const auto done = [&](int row, int end, int at, float* tile) {
        for (int i = row; i < end; ++i) {
            char* operand = op.operand == NONE ? nullptr : operands.write + i * operand_bytes(op.format, padded);
            finish(op, tile + (i - row) * PANEL, at, floats(run, op.output, i, padded), operand);
        }
    };
    if (is_blocks(matrix.format)) {
        const Item item{matrix, operands.read, stride, first, behind, panel, last};
        return multiply_blocks(item, scratch, results, done);
    }
    const int count = behind - first, tiles = (count + TILE_ROWS - 1) / TILE_ROWS;
    const bool many = count > 128;  // then a tile's rows stay in the nearest cache, not the panel
    const int panels = last - panel;
    for (int step = 0; step < tiles * panels; ++step) {
        const int tile = many ? step / panels : step % tiles, at = panel + (many ? step % panels : step / tiles);
        const int row = first + (int)((int64_t)count * tile / tiles), end = first + (int)((int64_t)count * (tile + 1) / tiles);
        const char* data = (const char*)matrix.data + at * panel_bytes;
        const char* ahead = many || tile > 1 ? data : data + panel_bytes + tile * panel_bytes / 2;
        const Tile what{operands.read + row * stride, stride, data, ahead, matrix.inputs};
        multiply_rows<TILE_ROWS>(end - row, matrix.format, what, results);
        done(row, end, at, results);
    }
}

void part(const Operation& op, const Run& run, Operands operands, Attention& attention, int index, char* scratch) {
    if (op.heads->format == FLOAT32) attend<Single>(op, run, operands, attention, index, scratch);
    else attend<Pair>(op, run, operands, attention, index, scratch);
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
    static const Kernels kernels{TEXT(TRIPTYCH_ISA), TILE_ROWS, bytes_of_operand, rows, product, part, pack, unpack, multiply_as_fast_as_possible, survey_row};
    return &kernels;
}
