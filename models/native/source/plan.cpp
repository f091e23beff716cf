#include "plan.h"

#include <algorithm>

namespace {

constexpr int QUERY_ROWS = 48;  // of a part: what they share of keys and values stays in the nearest caches

struct Range {
    int first, behind;
};

// The keys that any of the queries at [position, position + count) sees.
Range keys_of(const Heads& heads, int position, int count, int length) {
    Range keys{0, length};
    if (heads.causal) keys.behind = std::min(length, position + count);
    if (heads.window) {
        const int reach = heads.causal ? heads.window - 1 : heads.window;
        keys.first = std::max(0, position - reach);
        if (!heads.causal) keys.behind = std::min(length, position + count + reach);
    }
    return keys;
}

}  // namespace

void Attention::build(const Heads& heads, const View& view) {
    const int group = heads.heads / heads.kv_heads, together = std::max(1, QUERY_ROWS / group);
    const int64_t row_size = heads.padded_dim + 2;
    tallies.clear();
    parts.clear();
    std::vector<int64_t> places;
    int64_t used = 0;
    for (int slice = 0; slice < view.slices; ++slice) {
        const int count = view.rows[slice + 1] - view.rows[slice];
        for (int query = 0; query < count; query += together) {
            const int queries = std::min(together, count - query), position = view.starts[slice] + query;
            const Range keys = keys_of(heads, position, queries, view.lengths[slice]);
            for (int head = 0; head < heads.kv_heads; ++head) {
                Tally tally{slice, head, query, queries, position, (int32_t)parts.size(), 0};
                for (int start = keys.first / CHUNK * CHUNK; start < keys.behind; start += CHUNK) {
                    const int first = std::max(start, keys.first) / BLOCK_TOKENS * BLOCK_TOKENS;
                    parts.push_back(
                        {(int32_t)tallies.size(), first, std::min(start + CHUNK, keys.behind), nullptr});
                    places.push_back(used);
                    used += queries * group * row_size;
                    ++tally.parts;
                }
                tallies.push_back(tally);
            }
        }
    }
    if ((int64_t)results.size() < used) results.resize(used);
    for (size_t i = 0; i < parts.size(); ++i) parts[i].results = results.data() + places[i];
    if (room < (int64_t)tallies.size()) {
        room = 2 * tallies.size();
        missing = std::make_unique<std::atomic<int32_t>[]>(room);
    }
    reset();
}

void Attention::reset() {
    for (size_t i = 0; i < tallies.size(); ++i) missing[i].store(tallies[i].parts, std::memory_order_relaxed);
}
