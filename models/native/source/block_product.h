// Products with matrices of quantised blocks.
//
// Either the rows stay as precise as they are, and weights are opened to the very numbers that the file
// stands for, rounded as rows are: then results have the bits that the opened matrix would have given. Or
// rows are bytes too, with a scale for each block, and sums over a block are exact integers.
#pragma once
#include "blocks.h"
#include "product.h"

namespace TRIPTYCH_ISA {

constexpr int64_t AHEAD = 4096;  // bytes of a matrix, that it is fetched before it is needed

// What lies AHEAD of a block of so many bytes: part `index` of `parts`, so that each line is fetched once.
INLINE void fetch(const char* block, int64_t bytes, int index, int parts) {
    const int64_t lines = (bytes + 63) / 64;
    UNROLL for (int64_t line = lines * index / parts; line < lines * (index + 1) / parts; ++line)
        __builtin_prefetch(block + AHEAD + line * 64);
}

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
        UNROLL for (int quad = 0; quad < QUADS; ++quad) {
            fetch(block.block, Blocks::SIZE, quad, QUADS);
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

// Vectors of a panel whose sums of integers are kept at a time: as many as leave registers for sums of
// floats.
constexpr int TOGETHER = LANES == 16 ? 1 : LANES == 8 ? 2 : VECTORS;

// Where a block of a tile's first row lies: its bytes, and of these the scale, what makes up for centred
// steps, and what their sum stands for.
struct Place {
    const char *steps, *scale, *centring, *total;
    int64_t stride;  // to the next row
};

template <class Number>
INLINE Number number_at(const char* place) {
    Number number;
    memcpy(&number, place, sizeof number);
    return number;
}

// Products of a block with the vectors [first, first + TOGETHER) of outputs: exact, so in any order.
template <class Blocks, int ROWS>
INLINE void sum_steps(const Blocks& block, const Place& rows, int first, Ints (&parts)[ROWS][TOGETHER]) {
    UNROLL for (int row = 0; row < ROWS; ++row) {
        const char* centring = rows.centring + row * rows.stride;
        const Ints start = Blocks::FREE ? Ints{} : all_words(number_at<int32_t>(centring));
        UNROLL for (int v = 0; v < TOGETHER; ++v) parts[row][v] = start;
    }
    const char* steps[ROWS];
    UNROLL for (int row = 0; row < ROWS; ++row) {
        steps[row] = rows.steps + row * rows.stride;
        asm("" : "+r"(steps[row]));  // each place is this and a constant, not an address to be kept in memory
    }
    UNROLL for (int quad = 0; quad < QUADS; ++quad) {
        Ints weights[TOGETHER];
        UNROLL for (int v = 0; v < TOGETHER; ++v) {
            weights[v] = block.steps(quad, first + v);
            fetch(block.block, Blocks::SIZE, (first + v) * QUADS + quad, VECTORS * QUADS);
        }
        UNROLL for (int row = 0; row < ROWS; ++row) UNROLL for (int v = 0; v < TOGETHER; ++v) parts[row][v] =
            dot_bytes_at(parts[row][v], weights[v], steps[row] + quad * 4);
    }
}

// What the block adds to the sums of these outputs.
template <class Blocks, int ROWS>
INLINE void add_block(const Blocks& block, const Place& rows, int first, Floats (&sums)[ROWS][VECTORS]) {
    Ints parts[ROWS][TOGETHER];
    sum_steps<Blocks, ROWS>(block, rows, first, parts);
    UNROLL for (int v = 0; v < TOGETHER; ++v) {
        const Floats scale = block.scale(first + v), least = block.least(first + v);
        UNROLL for (int row = 0; row < ROWS; ++row) {
            const int64_t place = row * rows.stride;
            Floats sum = sums[row][first + v];
            sum = fma(to_floats(parts[row][v]) * scale, all(number_at<float>(rows.scale + place)), sum);
            if (Blocks::FREE) sum = fma(least, all(number_at<float>(rows.total + place)), sum);
            sums[row][first + v] = sum;
        }
    }
}

// -> results [ROWS][PANEL]
template <class Blocks, int ROWS>
INLINE void multiply_steps(const Tile& tile, float* results) {
    const int blocks = tile.inputs / GROUP;
    const char* scales = tile.operand + tile.inputs;
    Place rows{tile.operand, scales, scales + blocks * 4, scales + blocks * 8, tile.stride};
    Floats sums[ROWS][VECTORS];
    UNROLL for (int row = 0; row < ROWS; ++row) UNROLL for (int v = 0; v < VECTORS; ++v) sums[row][v] =
        Floats{};
    for (int index = 0; index < blocks; ++index) {
        const Blocks block(tile.panel, index);
        UNROLL for (int first = 0; first < VECTORS; first += TOGETHER) {
            // What was read of the rows is read again: the registers are needed for sums.
            asm volatile("" ::: "memory");
            add_block<Blocks, ROWS>(block, rows, first, sums);
        }
        rows.steps += GROUP, rows.scale += 4, rows.centring += 4, rows.total += 4;
    }
    UNROLL for (int row = 0; row < ROWS; ++row) UNROLL for (int v = 0; v < VECTORS; ++v)
        store(results + row * PANEL + v * LANES, sums[row][v]);
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
    // Whether a tile's rows stay in the nearest cache while panels pass, not a panel while rows do.
    bool many() const { return rows() > MANY_ROWS; }

    // Calls `make(tile, panel)` for all of them.
    template <class Make>
    void walk(Make make) const {
        const int panels = last - panel, number = tiles();
        for (int step = 0; step < number * panels; ++step)
            many() ? make(step / panels, panel + step % panels) : make(step % number, panel + step / number);
    }
};

// `done(row, end, panel, results)` takes what each tile makes.
template <class Blocks, class Done>
inline void multiply_bytes(const Item& item, float* results, Done done) {
    const int64_t panel_bytes = item.matrix.inputs / GROUP * Blocks::SIZE;
    item.walk([&](int tile, int at) {
        const int row = item.start(tile), end = item.start(tile + 1);
        const char* data = (const char*)item.matrix.data + at * panel_bytes;
        const Tile what{item.operand + row * item.stride, item.stride, data, data, item.matrix.inputs};
        multiply_steps_of<Blocks, TILE_ROWS>(end - row, what, results);
        done(row, end, at, results);
    });
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
