// Softmax(Q K^T * scale) V over the cache: Vaswani et al. 2017, eq. 1; in parts as in Dao et al. 2022,
// arXiv 2205.14135, whose partial results are joined by their maxima.
//
// A part is a few queries of a sequence, the heads that share a key head, and CHUNK keys from a multiple of
// CHUNK on. Where chunks begin does not depend on the step, nor does the order in which they are joined: a
// query has the same bits generated one by one or computed with a whole prompt.
#pragma once
#include <algorithm>

#include "cache_product.h"
#include "kernels.h"
#include "results.h"

namespace TRIPTYCH_ISA {

constexpr int SOFTENED_ROWS = LANES == 16 ? 12 : LANES;  // whose softmax ends in one vector
static_assert(SOFTENED_ROWS <= LANES && SOFTENED_ROWS <= ATTENDED_ROWS);

// Keys [first, behind) of one chunk. Rows of a part are queries times the heads of a group, of one key head
// after the other.
template <class Word>
struct Attending {
    using Element = typename Word::Element;

    const Heads& heads;
    const View& view;
    const Tally& tally;
    const char* queries;    // of the first key head
    int64_t queries_bytes;  // from one key head to the next
    float* scores;          // [rows][CHUNK]
    Element* weights;       // [rows][CHUNK]
    int keys_first, keys_behind;
    const Results results;
    int first = keys_first / BLOCK_TOKENS, count = (keys_behind + BLOCK_TOKENS - 1) / BLOCK_TOKENS - first;
    int group = heads.heads / heads.kv_heads, rows = tally.queries * group;  // of a key head
    int padded = heads.padded_dim;
    int64_t stride = padded * (int64_t)sizeof(Element), head_bytes = stride * BLOCK_TOKENS;
    Block blocks[CHUNK / BLOCK_TOKENS] = {};  // of the first key head

    bool few() const { return rows * tally.heads <= ATTENDED_ROWS; }

    void find_blocks(const char* keys, const char* values) {
        const int32_t* table = view.blocks + view.tables[tally.slice] + first;
        for (int i = 0; i < count; ++i) {
            const int64_t place = ((int64_t)table[i] * heads.kv_heads + tally.head) * head_bytes;
            blocks[i] = {keys + place, values + place};
        }
    }

    // Many rows, all of the same key head: keys and values come from the nearest caches.
    void attend() {
        in_tiles(rows, SOFTENED_ROWS, [&](int row, int behind) {
            const int used = blocks_of(behind - 1);
            score_some(0, row, behind, blocks, used, scores);
            finish(0, row, behind, used, scores, weights);
        });
    }

    // Few rows: keys and values come from memory, and are read as they lie there. What will have to be waited
    // for is asked for early: the values while keys are multiplied.
    void attend_in_passing() {
        for (int i = 0; i < count; ++i)
            for (int head = 0; head < tally.heads; ++head) {
                const Block block{blocks[i].keys + head * head_bytes, blocks[i].values + head * head_bytes};
                for (int64_t line = 0; line < head_bytes; line += 64)
                    __builtin_prefetch(block.values + line, 0, 2);
                float* to = scores + head * rows * CHUNK + i * BLOCK_TOKENS;
                score_some(head, 0, rows, &block, 1, to);
            }
        for (int head = 0; head < tally.heads; ++head) {
            in_tiles(rows, SOFTENED_ROWS, [&](int row, int behind) {
                const int place = (head * rows + row) * CHUNK;
                finish(head, row, behind, count, scores + place, weights + place);
            });
            for (int i = 0; i < count; ++i) blocks[i].values += head_bytes;
        }
    }

  private:
    // So many that no row up to `last` sees what is behind them: that would add zeros.
    int blocks_of(int last) const {
        const Seen seen = seen_by(heads, tally.position + last / group, view.lengths[tally.slice]);
        const int used = (seen.behind + BLOCK_TOKENS - 1) / BLOCK_TOKENS - first;
        return used < 0 ? 0 : used < count ? used : count;
    }

    INLINE void score_some(int head, int row, int behind, const Block* blocks, int used,
                           float* scores) const {
        score_all<Word>(behind - row, queries + head * queries_bytes + row * stride, stride,
                        padded / Word::PER_WORD, blocks, used, scores);
    }

    // From scores to results: rows [row, behind) of the `head`th key head of the part.
    INLINE void finish(int head, int row, int behind, int used, float* scores, Element* weights) const {
        Row each[SOFTENED_ROWS];
        for (int i = row; i < behind; ++i) {
            const int position = tally.position + i / group;
            each[i - row] = {(tally.head + head) * group + i % group, position, first * BLOCK_TOKENS,
                             seen_by(heads, position, view.lengths[tally.slice])};
        }
        const int place = head * rows + row;
        const auto soften_rows = is_plain(heads) ? soften<Word, true> : soften<Word, false>;
        soften_rows(heads, each, behind - row, used * BLOCK_TOKENS, scores, weights, results.tops + place,
                    results.sums + place);
        weigh_all<Word>(behind - row, (const char*)weights, padded, blocks, used,
                        results.values + (int64_t)place * padded, padded);
    }
};

// Of the step: the first whose queries the tally has.
INLINE int64_t first_token(const View& view, const Tally& tally) {
    return view.rows[tally.slice] + tally.query;
}

// A thread's memory for a part, as Attention::scratch_bytes has it.
struct Scratch {
    float *scores, *weights;  // [ATTENDED_ROWS][CHUNK]
    Results before, more;

    Scratch(char* memory, int rows, int padded)
        : scores((float*)memory),
          weights(scores + ATTENDED_ROWS * CHUNK),
          before(Results::at(weights + ATTENDED_ROWS * CHUNK, rows)),
          more(Results::at(before.tops + Results::size(rows, padded), rows)) {}
};

// Whether this was the last of a tally's parts. Then all are joined to the results of the first.
INLINE bool join_parts(Attention& attention, const Part& part, int rows, int padded) {
    const Tally& tally = attention.tallies[part.tally];
    auto& missing = attention.missing[part.tally];
    if (missing.fetch_sub(1, std::memory_order_acq_rel) > 1) return false;
    missing.store(tally.parts, std::memory_order_relaxed);  // for the next layer
    const Part* parts = attention.parts.data() + tally.first;
    for (int i = 1; i < tally.parts; ++i)
        join(Results::at(parts->results, rows), Results::at(parts[i * tally.stride].results, rows), rows,
             padded);
    return true;
}

// What the queries of a part see of its keys, chunk by chunk, joined in `found`.
template <class Word>
INLINE void attend_part(const Operation& op, const Run& run, const char* operand, const Part& part,
                        const Tally& tally, const Scratch& scratch, const Results& found) {
    using Element = typename Word::Element;
    const Heads& heads = *op.heads;
    const View& view = run.views[op.view];
    const int group = heads.heads / heads.kv_heads, rows = tally.heads * tally.queries * group;
    const int64_t token_bytes = group * heads.padded_dim * (int64_t)sizeof(Element);
    const int64_t head_bytes = run.tokens * token_bytes;
    const char* queries = operand + tally.head * head_bytes + first_token(view, tally) * token_bytes;
    for (int first = part.first, behind; first < part.behind; first = behind) {
        behind = std::min((first / CHUNK + 1) * CHUNK, part.behind);
        const Results& results = first == part.first ? found : scratch.more;
        auto* weights = (Element*)scratch.weights;
        Attending<Word> attending{heads,          view,    tally, queries, head_bytes,
                                  scratch.scores, weights, first, behind,  results};
        attending.find_blocks((const char*)run.keys[op.layer], (const char*)run.values[op.layer]);
        attending.few() ? attending.attend_in_passing() : attending.attend();
        if (first > part.first) join(found, results, rows, heads.padded_dim);
    }
}

// Part `index`; where it is the last of its tally, what was found is written.
template <class Word>
inline void attend(const Operation& op, const Run& run, Operands operands, Attention& attention, int index,
                   char* memory) {
    const Heads& heads = *op.heads;
    const Part& part = attention.parts[index];
    const Tally& tally = attention.tallies[part.tally];
    const int rows = tally.heads * tally.queries * (heads.heads / heads.kv_heads);
    const Scratch scratch(memory, rows, heads.padded_dim);
    const Results found = part.results ? Results::at(part.results, rows) : scratch.before;
    attend_part<Word>(op, run, operands.read, part, tally, scratch, found);
    if (part.results && !join_parts(attention, part, rows, heads.padded_dim)) return;
    const Part& whole = attention.parts[tally.first];
    float* output = op.output == NONE ? nullptr : (float*)run.buffers[op.output];
    char* operand = op.operand == NONE ? nullptr : operands.write;
    Writing{op, heads, tally, output, operand, first_token(run.views[op.view], tally)}.write(
        whole.results ? Results::at(whole.results, rows) : found, rows);
}

}  // namespace TRIPTYCH_ISA
