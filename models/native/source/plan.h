// Attention of a step, cut into parts that threads can take by themselves.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "program.h"

inline int divided_up(int number, int by) { return (number + by - 1) / by; }

constexpr int ATTENDED_ROWS = 16;  // of one part for which there is room at a time: queries times heads

// Some consecutive queries of a slice, for the heads that share some key heads: several of these where
// queries are few. Whoever computes the last of its parts says what they found.
struct Tally {
    int32_t slice;
    int32_t head, heads;           // of keys
    int32_t query, queries;        // which of the slice
    int32_t position;              // of the first in its sequence
    int32_t first, parts, stride;  // in the list of parts, from the first to the one of the next chunk
};

// Of rows: the binary logarithms of their largest weights, the sums of their weights, relative to the
// largest, and their weighted values [rows][padded_dim].
struct Results {
    float *tops, *sums, *values;

    // With room for a vector behind tops and sums.
    static int64_t room(int rows) { return (rows + ALIGNMENT / 4 + 15) / 16 * 16; }
    static int64_t size(int rows, int padded_dim) { return 2 * room(rows) + (int64_t)rows * padded_dim; }
    static Results at(float* memory, int rows) {
        return {memory, memory + room(rows), memory + 2 * room(rows)};
    }
};

// The keys [first, behind): of one chunk, and `results` wait for those of the others; or all that a tally
// has. Then `results` is null: they never leave the thread.
struct Part {
    int32_t tally;
    int32_t first, behind;
    float* results;
};

struct Attention {
    std::vector<Tally> tallies;
    std::vector<Part> parts;
    std::vector<float> results;
    std::unique_ptr<std::atomic<int32_t>[]> missing;  // parts of each tally that are not computed
    int64_t room = 0;

    void build(const Heads& heads, const View& view, int threads);
    // What a thread needs for any part.
    static int64_t scratch_bytes(const Heads& heads);

  private:
    void add_tallies(const Heads& heads, const View& view, int slice, int query, int queries, int together,
                     int size);
    void place_results(const Heads& heads);
    void reset();
};
