// Attention of a step, cut into parts that threads can take by themselves.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "program.h"

constexpr int ATTENDED_ROWS = 16;  // of one part for which there is room at a time: queries times heads

// Some consecutive queries of a slice, for the heads that share some key heads: several of these where
// queries are few. Whoever computes the last of its parts joins them.
struct Tally {
    int32_t slice;
    int32_t head, heads;         // of keys
    int32_t query, queries;      // which of the slice
    int32_t position;            // of the first in its sequence
    int32_t first, parts, step;  // in the list of parts, from the first to the one of the next chunk
};

// Of a part's rows: the binary logarithms of their largest weights, the sums of their weights, relative to
// the largest, and their weighted values [rows][padded_dim].
struct Results {
    float *tops, *sums, *values;
};

// The keys [first, behind) of one chunk.
struct Part {
    int32_t tally;
    int32_t first, behind;
    float* memory;

    // With room for a vector behind tops and sums.
    static int64_t room(int rows) { return (rows + ALIGNMENT / 4 + 15) / 16 * 16; }
    static int64_t size(int rows, int padded_dim) { return 2 * room(rows) + (int64_t)rows * padded_dim; }
    Results results(int rows) const { return {memory, memory + room(rows), memory + 2 * room(rows)}; }
};

struct Attention {
    std::vector<Tally> tallies;
    std::vector<Part> parts;
    std::vector<float> results;
    std::unique_ptr<std::atomic<int32_t>[]> missing;  // parts of each tally that are not computed
    int64_t room = 0;

    void build(const Heads& heads, const View& view);

  private:
    void add_tallies(const Heads& heads, const View& view, int slice, int query, int queries, int together);
    void place_results(const Heads& heads);
    void reset();
};
