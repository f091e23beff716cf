// Queries, keys and values: what is done to them, and where they go.
//
// A layer's cache is a list of blocks of BLOCK_TOKENS tokens: for each key head one of keys and one of
// values, laid out in words as attention multiplies them.
#pragma once
#include "product.h"

namespace TRIPTYCH_ISA {

// ---- before the cache

// Turn each pair (i, i + size / 2): Su et al. 2021, arXiv 2104.09864.
INLINE void rotate(float* head, const float* cosines, const float* sines, int size) {
    int i = 0;
    for (; i + LANES <= size / 2; i += LANES) {
        const Floats first = load(head + i), second = load(head + i + size / 2);
        store(head + i, first * load(cosines + i) + second * load(sines + i));
        store(head + i + size / 2,
              second * load(cosines + i + size / 2) + first * load(sines + i + size / 2));
    }
    for (; i < size / 2; ++i) {
        const float first = head[i], second = head[i + size / 2];
        head[i] = first * cosines[i] + second * sines[i];
        head[i + size / 2] = second * cosines[i + size / 2] + first * sines[i + size / 2];
    }
}

INLINE void clip(float* row, int count, float limit) {
    if (limit == __builtin_inff()) return;
    for (int i = 0; i < count; ++i) row[i] = row[i] < -limit ? -limit : row[i] > limit ? limit : row[i];
}

// Clip, norm and rotation of `count` heads side by side, in place.
inline void prepare_heads(float* row, int count, const Heads& heads, const float* weight, const float* bias,
                          const float* cosines, const float* sines) {
    const int size = heads.head_dim;
    clip(row, count * size, heads.clip);
    if (heads.norm != NO_NORM) {
        const int span = heads.norm_span == size ? size : count * size;  // one head, or all of them
        for (int i = 0; i < count * size; i += span)
            normalise(row + i, row + i, span, heads.norm, heads.norm_eps, weight ? weight + i : nullptr,
                      bias ? bias + i : nullptr);
    }
    if (heads.rotated)
        for (int head = 0; head < count; ++head) rotate(row + head * size, cosines, sines, heads.rotated);
}

// ---- where a row lies in the cache

struct Spot {
    int64_t block;
    int token;   // of the block
    bool opens;  // the last of its slice, in a block that was new to it: what lies behind was never written
};

// Rows of a step, asked for in order.
class Spots {
  public:
    Spots(const View& view, int row) : view_(view) {
        int behind = view.slices;
        while (behind - slice_ > 1) {
            const int middle = (slice_ + behind) / 2;
            (view.rows[middle] <= row ? slice_ : behind) = middle;
        }
    }
    Spot of(int row) {
        while (row >= view_.rows[slice_ + 1]) ++slice_;
        const int position = view_.starts[slice_] + row - view_.rows[slice_], token = position % BLOCK_TOKENS;
        const int64_t block = view_.blocks[view_.tables[slice_] + position / BLOCK_TOKENS];
        const bool last = row + 1 == view_.rows[slice_ + 1];
        return {block, token, last && position - token >= view_.starts[slice_]};
    }

  private:
    const View& view_;
    int slice_ = 0;
};

// The block of a key head.
template <class Word>
INLINE typename Word::Element* block_of(void* cache, const Heads& heads, int64_t block, int head) {
    const int64_t size = (int64_t)heads.padded_dim * BLOCK_TOKENS;
    return (typename Word::Element*)cache + (block * heads.kv_heads + head) * size;
}

// Queries lie as [kv_heads][tokens * group][padded_dim]: those that share keys together.
INLINE int64_t place_of_query(const Heads& heads, int head, int64_t row, int64_t tokens) {
    const int group = heads.heads / heads.kv_heads;
    return ((head / group * tokens + row) * group + head % group) * heads.padded_dim;
}

// ---- into the cache

// Calls `put(index, elements, count)` with LANES elements at a time of a head, as the cache keeps them.
template <class Word, class Put>
INLINE void narrow_by_parts(const float* head, int size, Put put) {
    for (int i = 0; i < size; i += LANES) {
        typename Word::Element part[LANES]{};
        const int count = size - i < LANES ? size - i : LANES;
        narrow<Word>(part, head + i, count);
        put(i, part, count);
    }
}

// A key to its place `token` in a block [padded_dim / per word][BLOCK_TOKENS] words.
template <class Word>
INLINE void write_key(typename Word::Element* block, const float* head, int size, int token) {
    constexpr int ELEMENTS = Word::PER_WORD;
    narrow_by_parts<Word>(head, size, [&](int first, const typename Word::Element* part, int count) {
        for (int i = 0; i < count; i += ELEMENTS)
            memcpy(block + (first + i) * BLOCK_TOKENS + token * ELEMENTS, part + i, sizeof(int32_t));
    });
}

// A value to its place in a block [BLOCK_TOKENS / per word][padded_dim] words, whose other half may be
// another thread's at this moment.
template <class Word>
INLINE void write_value(typename Word::Element* block, const float* head, int size, int padded, int token) {
    constexpr int ELEMENTS = Word::PER_WORD;
    typename Word::Element* words = block + token / ELEMENTS * padded * ELEMENTS + token % ELEMENTS;
    narrow_by_parts<Word>(head, size, [&](int first, const typename Word::Element* part, int count) {
        for (int i = 0; i < count; ++i) words[(first + i) * ELEMENTS] = part[i];
    });
}

// `count` columns of the places behind `token`: they are multiplied, by weights of zero, and must be numbers.
template <class Word>
INLINE void clear_values(typename Word::Element* block, int count, int padded, int token) {
    for (int behind = token + 1; behind < BLOCK_TOKENS; ++behind) {
        typename Word::Element* pairs = block + behind / Word::PER_WORD * padded * Word::PER_WORD;
        for (int i = 0; i < count; ++i) pairs[i * Word::PER_WORD + behind % Word::PER_WORD] = 0;
    }
}

// ---- rows, where something is done to them before

template <class Word>
INLINE void write_queries(typename Word::Element* to, const float* row, const Heads& heads, int64_t token,
                          int64_t tokens) {
    for (int head = 0; head < heads.heads; ++head, row += heads.head_dim) {
        typename Word::Element* place = to + place_of_query(heads, head, token, tokens);
        narrow<Word>(place, row, heads.head_dim);
        for (int i = heads.head_dim; i < heads.padded_dim; ++i) place[i] = 0;
    }
}

template <class Word>
INLINE void write_keys_and_values(const Operation& op, const Run& run, const float* keys, const Spot& place) {
    const Heads& heads = *op.heads;
    const int size = heads.head_dim, padded = heads.padded_dim;
    const float* values = keys + heads.kv_heads * size;
    for (int head = 0; head < heads.kv_heads; ++head) {
        auto* key_block = block_of<Word>(run.keys[op.layer], heads, place.block, head);
        auto* value_block = block_of<Word>(run.values[op.layer], heads, place.block, head);
        write_key<Word>(key_block, keys + head * size, size, place.token);
        write_value<Word>(value_block, values + head * size, size, padded, place.token);
        if (place.opens) clear_values<Word>(value_block, padded, padded, place.token);
    }
}

// Rows [first, behind) of an operation HEADS, whose input is `input` [tokens][stride]; changed in place.
template <class Word>
inline void make_heads(const Operation& op, const Run& run, char* operand, int first, int behind,
                       float* input, int64_t stride) {
    const Heads& heads = *op.heads;
    const int queries = op.parts & 1 ? heads.heads : 0, keys = op.parts & 2 ? heads.kv_heads : 0;
    Spots places(run.views[op.view], first);
    for (int row = first; row < behind; ++row) {
        float *query = input + row * stride, *key = query + queries * heads.head_dim;
        const float *cosines = nullptr, *sines = nullptr;
        if (heads.rotated) {
            cosines = run.cosines[op.rotation] + (int64_t)row * heads.rotated;
            sines = run.sines[op.rotation] + (int64_t)row * heads.rotated;
        }
        if (queries) {
            prepare_heads(query, queries, heads, heads.query_norm, heads.query_norm_bias, cosines, sines);
            write_queries<Word>((typename Word::Element*)operand, query, heads, row, run.tokens);
        }
        if (!keys) continue;
        prepare_heads(key, keys, heads, heads.key_norm, heads.key_norm_bias, cosines, sines);
        clip(key + keys * heads.head_dim, keys * heads.head_dim, heads.clip);
        write_keys_and_values<Word>(op, run, key, places.of(row));
    }
}

// ---- tiles of a product, where nothing is done to them before

// LANES columns of a tile, from element `within` of a head on: rows [first, behind) of the step, PANEL floats
// apart.
struct Columns {
    const float* tile;
    int first, behind;
    int head, within;
};

template <class Word>
INLINE void place_queries(const Operation& op, const Run& run, char* operand, const Columns& columns) {
    const float* from = columns.tile;
    for (int row = columns.first; row < columns.behind; ++row, from += PANEL) {
        const int64_t place = place_of_query(*op.heads, columns.head, row, run.tokens) + columns.within;
        Word::write((typename Word::Element*)operand + place, load(from));
    }
}

template <class Word>
INLINE void place_keys(const Operation& op, const Run& run, const Spot* places, const Columns& columns) {
    const float* from = columns.tile;
    for (int row = columns.first; row < columns.behind; ++row, ++places, from += PANEL) {
        auto* block = block_of<Word>(run.keys[op.layer], *op.heads, places->block, columns.head);
        write_key<Word>(block + columns.within * BLOCK_TOKENS, from, LANES, places->token);
    }
}

// Two tokens that share words are written at once.
template <class Word>
INLINE void place_values(const Operation& op, const Run& run, const Spot* places, const Columns& columns) {
    const int padded = op.heads->padded_dim;
    const float* from = columns.tile;
    for (int row = columns.first; row < columns.behind; ++row, ++places, from += PANEL) {
        auto* block = block_of<Word>(run.values[op.layer], *op.heads, places->block, columns.head) +
                      columns.within * Word::PER_WORD;
        const bool paired = Word::PER_WORD == 2 && row + 1 < columns.behind && places->token % 2 == 0 &&
                            places[1].block == places->block && places[1].token == places->token + 1;
        if (paired) {
            int32_t* words = (int32_t*)block + places->token / 2 * padded;
            store_words(words, join_bf16(load(from), load(from + PANEL)));
            ++row, ++places, from += PANEL;
        } else {
            write_value<Word>(block, from, LANES, padded, places->token);
        }
        if (places->opens) clear_values<Word>(block, LANES, padded, places->token);
    }
}

// Panel `panel` of the rows [first, behind) of a product whose outputs are heads: what HEADS would do.
template <class Word>
inline void place_heads(const Operation& op, const Run& run, char* operand, int first, int behind, int panel,
                        float* tile) {
    const Heads& heads = *op.heads;
    if (op.matrix->bias)
        for (int i = 0; i < (behind - first) * PANEL; i += LANES)
            store(tile + i, load(tile + i) + load(op.matrix->bias + panel * PANEL + i % PANEL));
    const int queries = op.parts & 1 ? heads.heads : 0, keys = op.parts & 2 ? heads.kv_heads : 0;
    Spot places[TILE_ROWS];
    Spots walk(run.views[op.view], first);
    for (int row = first; row < behind; ++row) places[row - first] = walk.of(row);
    for (int i = 0; i < PANEL; i += LANES) {
        const int column = panel * PANEL + i;
        const int head = column / heads.head_dim, within = column % heads.head_dim;
        if (head < queries)
            place_queries<Word>(op, run, operand, {tile + i, first, behind, head, within});
        else if (head < queries + keys)
            place_keys<Word>(op, run, places, {tile + i, first, behind, head - queries, within});
        else if (head < queries + 2 * keys)
            place_values<Word>(op, run, places, {tile + i, first, behind, head - queries - keys, within});
    }
}

}  // namespace TRIPTYCH_ISA
