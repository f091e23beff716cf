// What Python hands over: `structures.py` mirrors every struct here, field by field.
//
// A program is a list of operations over buffers of rows, one row for each token of a step. A row of floats
// is padded to a multiple of 64 with zeros; an operand is the same row as a matrix product wants it.
#pragma once
#include <cstdint>

constexpr int32_t NONE = -1;
constexpr int PANEL = 32;         // outputs of a matrix that lie together
constexpr int ALIGNMENT = 64;     // elements that rows are padded to
constexpr int BLOCK_TOKENS = 16;  // of the cache that lie together
constexpr int CHUNK = 256;        // keys whose softmax is taken at once: results are joined at fixed places
constexpr int GROUP = 32;  // inputs that share a scale, of a quantised operand and of a quantised matrix

// INT8 is of operands; those behind it, blocks as in GGUF files, are of matrices.
enum Format : int32_t { FLOAT32, BFLOAT16, INT8, Q8_0, Q4_0, Q4_1, Q4_K };

enum Function : int32_t { IDENTITY, GELU, GELU_TANH, GELU_SIGMOID, SILU, RELU, RELU_SQUARED, TANH };

enum Norm : int32_t { NO_NORM, LAYER_NORM, RMS_NORM };

enum Kind : int32_t {
    NORMALISE,  // floats -> floats and/or operand
    LINEAR,     // operand -> floats or operand, through a function; or, as HEADS does, queries and the cache
    ACTIVATE,   // floats -> floats or operand
    HEADS,      // queries, keys and values: norm, rotation, and into the cache
    ATTEND,     // over the cache
};

// A matrix [outputs, inputs] in panels of PANEL outputs; in a panel word by word of the inputs.
// Gated: a panel holds 16 rows of the gate, then the same 16 of what it opens.
struct Weight {
    int32_t format;
    int32_t operand;          // format of the rows that it is multiplied with
    int32_t inputs, outputs;  // padded: to ALIGNMENT, to PANEL
    int32_t gated;
    const void* data;
    const float* bias;  // [outputs], in the order of the panels; null: none
};

// How the heads of one layer are made, and what they see.
struct Heads {
    int32_t heads, kv_heads, head_dim, padded_dim;  // padded to 16
    int32_t format;                                 // of queries and of the cache
    int32_t rotated;                                // elements of a head that are turned; 0: none
    float clip;                                     // infinite: none
    int32_t norm, norm_span;                        // of queries and keys; elements that one norm goes over
    float norm_eps;
    const float *query_norm, *query_norm_bias, *key_norm, *key_norm_bias;  // [heads * head_dim]; null: none
    float scale, cap;                                                      // cap infinite: none
    int32_t causal;                                                        // a query sees no key behind it
    int32_t window;                                                        // and none farther away; 0: all
    int32_t bias;         // what is added to scores: see Bias
    const float* slopes;  // [heads], or [heads, buckets]
    int32_t distances;    // buckets: of -distances .. distances; farther is as far
    float bias_scale;
};

enum Bias : int32_t { NO_BIAS, ALIBI, ALIBI_ROUNDED, BY_DISTANCE };

struct Operation {
    int32_t kind;
    int32_t input;     // a buffer; of LINEAR an operand
    int32_t output;    // a buffer of floats, or NONE
    int32_t operand;   // a buffer of operands, or NONE
    int32_t width;     // elements of a row of the output
    int32_t add;       // to what is in `output`, instead of replacing it
    int32_t private_;  // few rows: each thread makes, and reads, an operand of its own
    int32_t function;
    int32_t gated;  // ACTIVATE: two halves come in, function(first) * second goes out
    int32_t norm;
    float eps;
    const float *weight, *bias;  // of the norm
    const Weight* matrix;
    const Heads* heads;
    int32_t parts;     // HEADS: 1 queries, 2 keys and values, 3 all, as laid out in the input
    int32_t rotation;  // which of the run's
    int32_t layer;     // whose cache
    int32_t view;      // which of the run's
    int32_t format;    // of the operand
};

// Who attends where: slices of rows, each with the blocks of its sequence.
struct View {
    int32_t slices;
    const int32_t* rows;     // [slices + 1] a slice's rows among all
    const int32_t* starts;   // [slices] the place of its first row in its sequence
    const int32_t* lengths;  // [slices] keys that there are
    const int32_t* tables;   // [slices + 1] where its blocks are listed
    const int32_t* blocks;   // as numbers of blocks of BLOCK_TOKENS
};

struct Run {
    int32_t tokens;
    int32_t first, last;  // operations [first, last)
    void* const* buffers;
    View views[2];
    void* const* keys;        // by layer: [blocks, kv_heads, padded_dim / per word, BLOCK_TOKENS] words
    void* const* values;      // by layer: [blocks, kv_heads, BLOCK_TOKENS / per word, padded_dim] words
    const float* cosines[2];  // [tokens, rotated]
    const float* sines[2];    // [tokens, rotated], negative in the first half
    int64_t* nanoseconds;     // by operation, added to; null: not measured
};
