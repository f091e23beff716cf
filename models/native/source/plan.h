// Attention of a step, cut into parts that threads can take by themselves.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "program.h"

// Some consecutive queries of a slice, for all heads that share a key head. Whoever computes the last of its
// parts joins them.
struct Tally {
    int32_t slice, head;     // of keys
    int32_t query, queries;  // which of the slice
    int32_t position;        // of the first in its sequence
    int32_t first, parts;    // in the list of parts
};

// The keys [first, behind) of one chunk.
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

    void build(const Heads& heads, const View& view);
    void reset();
};
