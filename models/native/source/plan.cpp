#include "plan.h"

#include <algorithm>

namespace {

constexpr int QUERY_ROWS = 48;  // of a part: what they share of keys and values stays in the nearest caches
// Keys and values of one chunk that a part of few queries reads: they stay in the second cache.
constexpr int64_t PASSING_BYTES = 512 * 1024;
constexpr int FEW_CHUNKS = 6;  // for each thread: then heads are not taken together, so that all have some
constexpr int ALL_KEYS = 1 << 30;
constexpr int MANY_TALLIES = 4;  // of each thread: then nobody waits for long if they are not divided

int group_of(const Heads& heads) { return heads.heads / heads.kv_heads; }

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

// How many key heads a part takes for so many queries: several lie side by side in memory.
int heads_together(const Heads& heads, int queries) {
    const int rows = queries * group_of(heads);
    const int64_t bytes = (int64_t)CHUNK * heads.padded_dim * (heads.format == FLOAT32 ? 8 : 4);
    const int most = std::min<int64_t>(ATTENDED_ROWS / rows, PASSING_BYTES / bytes);
    return std::clamp(most, 1, heads.kv_heads);
}

int chunks_of(const View& view) {
    int chunks = 0;
    for (int slice = 0; slice < view.slices; ++slice) chunks += divided_up(view.lengths[slice], CHUNK);
    return chunks;
}

int queries_together(const Heads& heads) { return std::max(1, QUERY_ROWS / group_of(heads)); }

// How many tallies there are with as many queries as go together.
int large_tallies(const Heads& heads, const View& view) {
    int tallies = 0;
    for (int slice = 0; slice < view.slices; ++slice)
        tallies += (view.rows[slice + 1] - view.rows[slice]) / queries_together(heads) * heads.kv_heads;
    return tallies;
}

}  // namespace

int64_t Attention::scratch_bytes(const Heads& heads) {
    const int rows = std::max(ATTENDED_ROWS, queries_together(heads) * group_of(heads));
    return ATTENDED_ROWS * CHUNK * 8 + 2 * 4 * Results::size(rows, heads.padded_dim);
}

void Attention::build(const Heads& heads, const View& view, int threads) {
    const int most = queries_together(heads);
    const bool plenty = chunks_of(view) >= FEW_CHUNKS * threads;
    const bool undivided = large_tallies(heads, view) >= MANY_TALLIES * threads;
    tallies.clear();
    parts.clear();
    for (int slice = 0; slice < view.slices; ++slice) {
        const int count = view.rows[slice + 1] - view.rows[slice];
        for (int query = 0; query < count; query += most) {
            const int queries = std::min(most, count - query);
            const bool large = queries * group_of(heads) > ATTENDED_ROWS;
            add_tallies(heads, view, slice, query, queries, plenty ? heads_together(heads, queries) : 1,
                        undivided && large ? ALL_KEYS : CHUNK);
        }
    }
    place_results(heads);
    reset();
}

// One for every `together` key heads. Their parts, of `size` keys each, lie chunk by chunk, as keys and
// values do.
void Attention::add_tallies(const Heads& heads, const View& view, int slice, int query, int queries,
                            int together, int size) {
    const int position = view.starts[slice] + query;
    const Range keys = keys_of(heads, position, queries, view.lengths[slice]);
    const int start = keys.first / size, number = divided_up(keys.behind, size) - start;
    const int stride = divided_up(heads.kv_heads, together), tally = (int)tallies.size();
    for (int i = 0; i < stride; ++i)
        tallies.push_back({slice, i * together, std::min(together, heads.kv_heads - i * together), query,
                           queries, position, (int32_t)parts.size() + i, number, stride});
    for (int part = start; part < start + number; ++part)
        for (int i = 0; i < stride; ++i)
            parts.push_back({tally + i, std::max(part * size, keys.first) / BLOCK_TOKENS * BLOCK_TOKENS,
                             std::min(part * size + size, keys.behind), nullptr});
}

// Where a tally has several. They take memory as contexts grow: so those of many queries, which are large,
// are not divided where there is enough to do for all threads without.
void Attention::place_results(const Heads& heads) {
    const auto size = [&](const Part& part) -> int64_t {
        const Tally& tally = tallies[part.tally];
        if (tally.parts == 1) return 0;
        return Results::size(tally.heads * tally.queries * group_of(heads), heads.padded_dim);
    };
    int64_t used = ALIGNMENT / 4;
    for (const Part& part : parts) used += size(part);
    if ((int64_t)results.size() < used) results.resize(used);
    float* place = (float*)(((uintptr_t)results.data() + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    for (Part& part : parts) {
        part.results = size(part) ? place : nullptr;
        place += size(part);
    }
}

void Attention::reset() {
    if (room < (int64_t)tallies.size()) {
        const int64_t wanted = 2 * tallies.size();
        missing = std::make_unique<std::atomic<int32_t>[]>(wanted);
        room = wanted;  // not before: there may be no memory for so many
    }
    for (size_t i = 0; i < tallies.size(); ++i) missing[i].store(tallies[i].parts, std::memory_order_relaxed);
}
