// What a sampler asks of rows of logits. `scores.h` finds it.
#pragma once
#include <cstdint>

// `rows` rows: number i reads row places[i] of `logits`, `width` values, each value divided by divisors[i].
struct Survey {
    const float* logits;
    const int32_t* places;
    const float* divisors;
    int64_t stride;  // from row to row
    int32_t rows, width;
    int32_t most;      // leaders of each row: 0 where none are wanted
    int64_t* best;     // [rows] the largest logit's index; of equals the first, and the first NaN before all
    double* masses;    // [rows] log(sum(exp(logit - largest))); NaN where a row has no softmax
    int64_t* leaders;  // [rows, most] the largest, falling, equals by index, without minus infinity
    float* values;     // [rows, most] their logits
    int32_t* found;    // [rows] how many there are; 0 where a row has no softmax
};
