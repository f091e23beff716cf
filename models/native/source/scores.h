// Rows of logits: the largest, the sum of all exponentials, and the leaders, none of them by sorting a row.
//
// Every result depends on its row alone, and sums are taken in a fixed order.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "simd.h"
#include "survey.h"

namespace TRIPTYCH_ISA {

constexpr int SUMMED = 64;  // vectors whose exponentials are added as floats, before the sum becomes a double
constexpr int SPREAD = 4;   // blocks for each leader: the more, the fewer others have to be sorted with them

INLINE bool any(Ints where) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)where, (__m512i)where);
#elif defined(__AVX2__)
    return !_mm256_testz_si256((__m256i)where, (__m256i)where);
#else
    int32_t found = 0;
    for (int i = 0; i < LANES; ++i) found |= where[i];
    return found;
#endif
}

// A row as vectors, each value divided; behind its end is minus infinity.
struct Divided {
    const float* row;
    int width;
    Floats divisor;

    INLINE int vectors() const { return (width + LANES - 1) / LANES; }
    INLINE Floats undivided(int vector) const {
        const int first = vector * LANES;
        if (first + LANES <= width) return load(row + first);
        float last[LANES];
        for (int i = 0; i < LANES; ++i) last[i] = first + i < width ? row[first + i] : -__builtin_inff();
        return load(last);
    }
    INLINE Floats operator[](int vector) const { return undivided(vector) / divisor; }
};

// The largest value of each block, of which block b has the vectors b, b + blocks, b + 2 blocks, ..: those of
// a vocabulary's beginning are often all large. Returns whether there is a NaN.
INLINE bool find_maxima(const Divided& row, int blocks, Floats* maxima) {
    Ints broken{};
    for (int block = 0; block < blocks; ++block) maxima[block] = all(-__builtin_inff());
    for (int first = 0; first < row.vectors(); first += blocks) {
        const int count = std::min(blocks, row.vectors() - first);
        for (int block = 0; block < count; ++block) {
            const Floats value = row.undivided(first + block);  // division keeps the order
            broken |= value != value;
            maxima[block] = larger(value, maxima[block]);
        }
    }
    return any(broken);
}

INLINE int64_t first_that(const Divided& row, float equals) {
    for (int vector = 0; vector < row.vectors(); ++vector) {
        const Floats value = row[vector];
        if (!any(value == all(equals))) continue;
        for (int i = 0; i < LANES; ++i)
            if (value[i] == equals) return (int64_t)vector * LANES + i;
    }
    return 0;
}

INLINE int64_t first_nan(const float* row, int width) {
    return std::find_if(row, row + width, [](float value) { return value != value; }) - row;
}

INLINE double log_mass(const Divided& row, float peak) {
    double total = 0;
    for (int first = 0; first < row.vectors(); first += SUMMED) {
        Floats some{};
        for (int vector = first; vector < std::min(first + SUMMED, row.vectors()); ++vector)
            some += exp(row[vector] - all(peak));
        total += sum(some);
    }
    return std::log(total);
}

// Larger for the larger value, among equals for the smaller index: no two are equal.
INLINE uint64_t rank(float value, uint32_t index) {
    const uint32_t word = bits<uint32_t>(value + 0.0f);  // minus zero equals zero
    return (uint64_t)(word >> 31 ? ~word : word | 0x80000000) << 32 | (uint32_t)~index;
}

// As many blocks as leaders are wanted have a maximum of at least the last leader, so what is smaller than
// the last of these maxima does not lead.
INLINE float least_of_leaders(const std::vector<Floats>& maxima, int most) {
    std::vector<float> values(maxima.size() * LANES);
    memcpy(values.data(), maxima.data(), values.size() * sizeof(float));
    if (most >= (int)values.size()) return -__builtin_inff();
    std::nth_element(values.begin(), values.begin() + most - 1, values.end(), std::greater<float>());
    return values[most - 1];
}

INLINE std::vector<uint64_t> ranks_from(const Divided& row, float least) {
    std::vector<uint64_t> ranks;
    for (int vector = 0; vector < row.vectors(); ++vector) {
        const Floats value = row[vector];
        const Ints leads = (value >= all(least)) & (value > all(-__builtin_inff()));
        if (!any(leads)) continue;
        for (int i = 0; i < LANES; ++i)
            if (leads[i]) ranks.push_back(rank(value[i], (uint32_t)(vector * LANES + i)));
    }
    return ranks;
}

INLINE void write_leaders(const Survey& survey, int number, const Divided& row, float least) {
    std::vector<uint64_t> ranks = ranks_from(row, least);
    const size_t count = std::min<size_t>(survey.most, ranks.size());
    std::partial_sort(ranks.begin(), ranks.begin() + count, ranks.end(), std::greater<uint64_t>());
    const int64_t first = (int64_t)number * survey.most;
    for (size_t i = 0; i < count; ++i) {
        const uint32_t index = ~(uint32_t)ranks[i];
        survey.leaders[first + i] = index;
        survey.values[first + i] = row.row[index] / row.divisor[0];
    }
    survey.found[number] = (int32_t)count;
}

inline void survey_row(const Survey& survey, int number) {
    const float* logits = survey.logits + survey.places[number] * survey.stride;
    const Divided row{logits, survey.width, all(survey.divisors[number])};
    const int wanted = std::max(16, SPREAD * survey.most / LANES);
    std::vector<Floats> maxima(std::min(wanted, row.vectors()));
    const bool broken = find_maxima(row, (int)maxima.size(), maxima.data());
    Floats highest = maxima[0];
    for (const Floats& one : maxima) highest = larger(one, highest);
    const float peak = largest(highest) / survey.divisors[number];
    survey.best[number] = broken ? first_nan(logits, survey.width) : first_that(row, peak);
    const bool possible = !broken && std::isfinite(peak);
    survey.masses[number] = possible ? log_mass(row, peak) : __builtin_nan("");
    if (!survey.most) return;
    survey.found[number] = 0;
    if (possible)
        write_leaders(survey, number, row, least_of_leaders(maxima, survey.most) / survey.divisors[number]);
}

}  // namespace TRIPTYCH_ISA
