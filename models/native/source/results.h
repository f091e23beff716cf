// What attention found, of some rows: how it is joined, and where it goes.
//
// Chunks are joined in order, one after the other, whoever computed them and wherever their results were.
#pragma once
#include "plan.h"
#include "rows.h"
#include "softmax.h"

namespace TRIPTYCH_ISA {

// What the keys of a chunk came to, and what all keys before it did, become what all of them come to, in
// `before`. `more` is lost.
INLINE void join(const Results& before, const Results& more, int rows, int padded) {
    for (int row = 0; row < rows; row += LANES) {
        const Floats old_top = load(before.tops + row), new_top = load(more.tops + row);
        const Floats top = larger(old_top, new_top);
        const Floats down = choose(top > all(-__builtin_inff()), top, Floats{});  // nothing was seen: 0, 0
        const Floats kept = two_to(old_top - down), added = two_to(new_top - down);
        store(before.sums + row, fma(added, load(more.sums + row), kept * load(before.sums + row)));
        store(before.tops + row, top);
        store(more.tops + row, kept);
        store(more.sums + row, added);
    }
    for (int row = 0; row < rows; ++row) {
        const Floats kept = all(more.tops[row]), added = all(more.sums[row]);
        float *to = before.values + (int64_t)row * padded, *from = more.values + (int64_t)row * padded;
        for (int i = 0; i < padded; i += LANES)
            store(to + i, fma(added, load(from + i), kept * load(to + i)));
    }
}

// What all keys of a tally came to, to the attended rows [tokens][heads * head_dim].
struct Writing {
    const Operation& op;
    const Heads& heads;
    const Tally& tally;
    float* output;  // null: none
    char* operand;  // null: none
    int64_t first_token;
    int group = heads.heads / heads.kv_heads, size = heads.head_dim, padded = heads.padded_dim;
    int64_t width = (op.width + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;

    void write(const Results& results, int rows) const {
        for (int row = 0; row < rows; row += LANES)
            store(results.sums + row, all(1.0f) / load(results.sums + row));
        const int each = tally.queries * group;
        for (int row = 0; row < rows; ++row) {
            float* values = results.values + (int64_t)row * padded;
            for (int i = 0; i < padded; i += LANES)
                store(values + i, load(values + i) * all(results.sums[row]));
            const int head = tally.head * group + row / each * group + row % group;
            write_row(first_token + row % each / group, head, values);
        }
    }

  private:
    // Rounded as whoever reads it wants it.
    INLINE void write_row(int64_t token, int head, const float* values) const {
        const int64_t column = (int64_t)head * size;
        if (output) memcpy(output + token * width + column, values, size * sizeof(float));
        if (!operand) return;
        char* to = operand + token * operand_bytes(op.format, width);
        if (op.format == FLOAT32)
            memcpy((float*)to + column, values, size * sizeof(float));
        else
            narrow<Pair>((uint16_t*)to + column, values, size);
    }
};

}  // namespace TRIPTYCH_ISA
