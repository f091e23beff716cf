// Matrices of quantised blocks: how they lie in a panel, and what a product reads of them.
//
// A weight is steps * scale + least: a small integer, and two numbers that the 32 inputs of a block share.
// These are the blocks of GGUF files, bit for bit; only their order is ours. In a panel, block after block:
// the scales of its 32 outputs, what else they have, then words of the steps.
#pragma once
#include "rows.h"

namespace TRIPTYCH_ISA {

constexpr int QUADS = GROUP / 4;  // of a block: four inputs of each output

// Q8_0: an int8 stored as steps + 128, a scale.
struct Bytes {
    static constexpr bool FREE = false;  // whether `least` is anything else than -CENTRE * scale
    static constexpr int64_t SIZE = PANEL * (2 + GROUP);
    const char* block;
    Bytes(const char* panel, int index) : block(panel + index * SIZE) {}
    INLINE Floats scale(int v) const { return load_halves((const uint16_t*)block + v * LANES); }
    INLINE Floats least(int v) const { return scale(v) * all(-(float)CENTRE); }
    // The steps of four inputs, each in a byte.
    INLINE Ints steps(int quad, int v) const {
        return load_words((const int32_t*)(block + PANEL * 2) + quad * PANEL + v * LANES);
    }
};

// Eight inputs in a word: four in the low halves of its bytes, the next four in the high ones.
INLINE Ints two_quads(const char* words, int quad, int v) {
    return load_words((const int32_t*)words + quad / 2 * PANEL + v * LANES);
}
INLINE Ints nibbles(const char* words, int quad, int v) {
    const Ints word = two_quads(words, quad, v);
    return (quad % 2 ? word >> 4 : word) & 0x0f0f0f0f;
}
// Sixteen times as much.
INLINE Ints high_nibbles(const char* words, int quad, int v) {
    const Ints word = two_quads(words, quad, v);
    return (quad % 2 ? word : word << 4) & (int32_t)0xf0f0f0f0;
}

// Q4_0: four bits, offset by 8, a scale. Steps are taken sixteen times as large, to have the centre of bytes.
struct CentredNibbles {
    static constexpr bool FREE = false;
    static constexpr int64_t SIZE = PANEL * (2 + GROUP / 2);
    const char* block;
    CentredNibbles(const char* panel, int index) : block(panel + index * SIZE) {}
    INLINE Floats scale(int v) const {
        return load_halves((const uint16_t*)block + v * LANES) * all(1.0f / 16);
    }
    INLINE Floats least(int v) const { return scale(v) * all(-(float)CENTRE); }
    INLINE Ints steps(int quad, int v) const { return high_nibbles(block + PANEL * 2, quad, v); }
};

// Q4_1: four bits, a scale, the least weight.
struct FreeNibbles {
    static constexpr bool FREE = true;
    static constexpr int64_t SIZE = PANEL * (4 + GROUP / 2);
    const char* block;
    FreeNibbles(const char* panel, int index) : block(panel + index * SIZE) {}
    INLINE Floats scale(int v) const { return load_halves((const uint16_t*)block + v * LANES); }
    INLINE Floats least(int v) const { return load_halves((const uint16_t*)(block + PANEL * 2) + v * LANES); }
    INLINE Ints steps(int quad, int v) const { return nibbles(block + PANEL * 4, quad, v); }
};

// Q4_K: eight blocks share a scale of their scales, and one of what is the least. A matrix's inputs come in
// 256.
struct NestedNibbles {
    static constexpr bool FREE = true;
    static constexpr int BLOCKS = 8;
    static constexpr int64_t INNER = PANEL * (2 + GROUP / 2), OUTER = PANEL * 4 + BLOCKS * INNER;
    static constexpr int64_t SIZE = OUTER / BLOCKS;
    const char *outer, *block;
    NestedNibbles(const char* panel, int index)
        : outer(panel + index / BLOCKS * OUTER), block(outer + PANEL * 4 + index % BLOCKS * INNER) {}
    INLINE Floats scale(int v) const {
        return load_halves((const uint16_t*)outer + v * LANES) *
               load_bytes((const uint8_t*)block + v * LANES);
    }
    INLINE Floats least(int v) const {
        return -(load_halves((const uint16_t*)(outer + PANEL * 2) + v * LANES) *
                 load_bytes((const uint8_t*)block + PANEL + v * LANES));
    }
    INLINE Ints steps(int quad, int v) const { return nibbles(block + PANEL * 2, quad, v); }
};

INLINE bool is_blocks(int32_t format) { return format >= Q8_0; }

// `what(Kind<…>{})` for the kind of blocks that `format` names.
template <class Blocks>
struct Kind {
    using Type = Blocks;
};
template <class What>
INLINE auto for_blocks(int32_t format, What what) {
    switch (format) {
        case Q8_0:
            return what(Kind<Bytes>{});
        case Q4_0:
            return what(Kind<CentredNibbles>{});
        case Q4_1:
            return what(Kind<FreeNibbles>{});
        default:
            return what(Kind<NestedNibbles>{});
    }
}

}  // namespace TRIPTYCH_ISA
