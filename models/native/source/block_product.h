// Products with matrices of quantised blocks.
//
// Either the rows stay as precise as they are, and weights are opened to the very numbers that the file
// stands for, rounded as rows are: then results have the bits that the opened matrix would have given. Or
// rows are bytes too, with a scale for each block, and sums over a block are exact integers.
#pragma once
#include "blocks.h"
#include "product.h"

namespace TRIPTYCH_ISA {

// ---- rows of floats or bfloat16

// One word of `Word` from as many inputs of each output.
template <class Word>
INLINE Ints join(const Floats* values) {
    if constexpr (Word::PER_WORD == 1)
        return bits<Ints>(values[0]);
    else
        return join_bf16(values[0], values[1]);
}

// Gives `take(word, weights)` the words of a panel as `Word`s, in order.
template <class Word, class Blocks, class Take>
INLINE void open(const char* panel, int inputs, Take take) {
    constexpr int WORDS = 4 / Word::PER_WORD;  // of four inputs
    for (int index = 0; index < inputs / GROUP; ++index) {
        const Blocks block(panel, index);
        Floats scales[VECTORS], least[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; ++v) scales[v] = block.scale(v), least[v] = block.least(v);
        __builtin_prefetch(block.block + 4096);
        UNROLL for (int quad = 0; quad < QUADS; ++quad) {
            __builtin_prefetch(block.block + 4096 + quad * 64);
            Ints weights[WORDS][VECTORS];
            UNROLL for (int v = 0; v < VECTORS; ++v) {
                const Ints steps = block.steps(quad, v);
                UNROLL for (int word = 0; word < WORDS; ++word) {
                    Floats values[Word::PER_WORD];
                    UNROLL for (int i = 0; i < Word::PER_WORD; ++i) values[i] =
                        fma(to_floats(byte_of(steps, word * Word::PER_WORD + i)), scales[v], least[v]);
                    weights[word][v] = join<Word>(values);
                }
            }
            UNROLL for (int word = 0; word < WORDS; ++word)
                take((index * QUADS + quad) * WORDS + word, weights[word]);
        }
    }
}

// -> a panel as `multiply` reads it.
template <class Word, class Blocks>
inline void open_panel(const char* panel, int inputs, char* opened) {
    open<Word, Blocks>(panel, inputs, [&](int word, const Ints* weights) {
        UNROLL for (int v = 0; v < VECTORS; ++v)
            store_words((int32_t*)opened + word * PANEL + v * LANES, weights[v]);
    });
}

// `multiply` of few rows, which a panel is opened for on the way.
template <class Word, class Blocks, int ROWS>
inline void multiply_opening(const Tile& tile, float* results) {
    Floats sums[ROWS][VECTORS];
    UNROLL for (int row = 0; row < ROWS; ++row) UNROLL for (int v = 0; v < VECTORS; ++v) sums[row][v] =
        Floats{};
    open<Word, Blocks>(tile.panel, tile.inputs, [&](int word, const Ints* weights) {
        UNROLL for (int row = 0; row < ROWS; ++row) {
            int32_t value;
            memcpy(&value, tile.operand + row * tile.stride + word * 4, 4);
            const Ints spread = all_words(value);
            UNROLL for (int v = 0; v < VECTORS; ++v) sums[row][v] =
                Word::dot(sums[row][v], weights[v], spread);
        }
    });
    UNROLL for (int row = 0; row < ROWS; ++row) UNROLL for (int v = 0; v < VECTORS; ++v)
        store(results + row * PANEL + v * LANES, sums[row][v]);
}

// ---- rows of bytes

// -> results [ROWS][PANEL]. Behind a row's bytes lie, of each block, its scale and the sum of its bytes.
template <class Blocks, int ROWS>
INLINE void multiply_steps(const Tile& tile, float* results) {
    const int blocks = tile.inputs / GROUP;
    for (int i = 0; i < ROWS * PANEL; i += LANES) store(results + i, Floats{});
    const char* ahead = tile.ahead;
    for (int index = 0; index < blocks; ++index) {
        const Blocks block(tile.panel, index);
        Ints parts[ROWS][VECTORS];
        int32_t totals[ROWS];
        UNROLL for (int row = 0; row < ROWS; ++row) {
            memcpy(&totals[row], tile.operand + row * tile.stride + tile.inputs + (blocks + index) * 4, 4);
            UNROLL for (int v = 0; v < VECTORS; ++v) parts[row][v] = all_words(-Blocks::CENTRE * totals[row]);
        }
        UNROLL for (int quad = 0; quad < QUADS; ++quad, ahead += 64) {
            Ints weights[VECTORS];
            UNROLL for (int v = 0; v < VECTORS; ++v) weights[v] = block.steps(quad, v);
            if constexpr (ROWS <= 2) {  // the matrix comes from memory, and nothing else takes time
                for (int line = 0; line < 2; ++line)
                    __builtin_prefetch(block.block + 4096 + (quad * 2 + line) * 64);
            } else {
                __builtin_prefetch(ahead, 0, 2);
            }
            UNROLL for (int row = 0; row < ROWS; ++row) {
                int32_t value;
                memcpy(&value, tile.operand + row * tile.stride + index * GROUP + quad * 4, 4);
                const Ints spread = all_words(value);
                UNROLL for (int v = 0; v < VECTORS; ++v) parts[row][v] =
                    dot_bytes(parts[row][v], weights[v], spread);
            }
        }
        UNROLL for (int v = 0; v < VECTORS; ++v) {
            const Floats scales = block.scale(v);
            UNROLL for (int row = 0; row < ROWS; ++row) {
                float scale;
                memcpy(&scale, tile.operand + row * tile.stride + tile.inputs + index * 4, 4);
                float* result = results + row * PANEL + v * LANES;
                Floats sum = fma(to_floats(parts[row][v]) * scales, all(scale), load(result));
                if (Blocks::FREE) sum = fma(block.least(v), all(scale * (float)totals[row]), sum);
                store(result, sum);
            }
        }
    }
}

template <class Blocks, int ROWS>
inline void multiply_steps_of(int rows, const Tile& tile, float* results) {
    if constexpr (ROWS > 1)
        if (rows < ROWS) return multiply_steps_of<Blocks, ROWS - 1>(rows, tile, results);
    multiply_steps<Blocks, ROWS>(tile, results);
}

// ---- all of an item

// For which a panel is opened on the way, not first.
constexpr int FEW_ROWS = TILE_ROWS < 2 ? TILE_ROWS : 2;

// Rows [first, behind) of an operand, and the panels [panel, last) of a matrix.
struct Item {
    const Weight& matrix;
    const char* operand;
    int64_t stride;
    int first, behind, panel, last;

    int rows() const { return behind - first; }
    int tiles() const { return (rows() + TILE_ROWS - 1) / TILE_ROWS; }
    int start(int tile) const { return first + (int)((int64_t)rows() * tile / tiles()); }
};

// `done(row, end, panel, results)` takes what each tile makes.
template <class Blocks, class Done>
inline void multiply_bytes(const Item& item, float* results, Done done) {
    const int64_t panel_bytes = item.matrix.inputs / GROUP * Blocks::SIZE;
    const int tiles = item.tiles(), panels = item.last - item.panel;
    const bool many = item.rows() > 128;  // then a tile's rows stay in the nearest cache, not the panel
    for (int step = 0; step < tiles * panels; ++step) {
        const int tile = many ? step / panels : step % tiles,
                  at = item.panel + (many ? step % panels : step / tiles);
        const int row = item.start(tile), end = item.start(tile + 1);
        const char* data = (const char*)item.matrix.data + at * panel_bytes;
        const char* ahead = many || tile > 1 ? data : data + panel_bytes + tile * panel_bytes / 2;
        const Tile what{item.operand + row * item.stride, item.stride, data, ahead, item.matrix.inputs};
        multiply_steps_of<Blocks, TILE_ROWS>(end - row, what, results);
        done(row, end, at, results);
    }
}

template <class Word, class Blocks, class Done>
inline void multiply_opened(const Item& item, char* scratch, float* results, Done done) {
    constexpr int32_t FORMAT = Word::PER_WORD == 1 ? FLOAT32 : BFLOAT16;
    const int64_t panel_bytes = item.matrix.inputs / GROUP * Blocks::SIZE;
    for (int at = item.panel; at < item.last; ++at) {
        const char* data = (const char*)item.matrix.data + at * panel_bytes;
        if (item.rows() <= FEW_ROWS) {
            const Tile what{item.operand + item.first * item.stride, item.stride, data, data,
                            item.matrix.inputs};
            if (item.rows() == FEW_ROWS)
                multiply_opening<Word, Blocks, FEW_ROWS>(what, results);
            else
                multiply_opening<Word, Blocks, 1>(what, results);
            done(item.first, item.behind, at, results);
            continue;
        }
        open_panel<Word, Blocks>(data, item.matrix.inputs, scratch);
        for (int tile = 0; tile < item.tiles(); ++tile) {
            const int row = item.start(tile), end = item.start(tile + 1);
            const Tile what{item.operand + row * item.stride, item.stride, scratch, data + panel_bytes,
                            item.matrix.inputs};
            multiply_rows<TILE_ROWS>(end - row, FORMAT, what, results);
            done(row, end, at, results);
        }
    }
}

// `scratch`: for an opened panel.
template <class Done>
inline void multiply_blocks(const Item& item, char* scratch, float* results, Done done) {
    for_blocks(item.matrix.format, [&](auto kind) {
        using Blocks = typename decltype(kind)::Type;
        switch (item.matrix.operand) {
            case FLOAT32:
                return multiply_opened<Single, Blocks>(item, scratch, results, done);
            case BFLOAT16:
                return multiply_opened<Pair, Blocks>(item, scratch, results, done);
            default:
                return multiply_bytes<Blocks>(item, results, done);
        }
    });
}

}  // namespace TRIPTYCH_ISA
