// Blocks as GGUF files have them, and their way into a panel: bits are moved, never changed.
//
// Layouts: https://github.com/ggml-org/ggml, src/ggml-common.h; what rounds, src/ggml-quants.c.
#pragma once
#include "blocks.h"

namespace TRIPTYCH_ISA {

constexpr int NESTED_INPUTS = 256;

// Inputs, and bytes, of a block of the file.
INLINE int raw_inputs(int32_t format) { return format == Q4_K ? NESTED_INPUTS : GROUP; }
INLINE int64_t raw_bytes(int32_t format) {
    switch (format) {
        case Q8_0:
            return 34;
        case Q4_0:
            return 18;
        case Q4_1:
            return 20;
        case Q4_K:
            return 144;
        default:
            return 0;
    }
}

struct RawBlock {
    uint8_t bytes[144];  // of the largest kind
};

// ---- rounding

// To the nearest, ties to even; what is too large is infinite.
INLINE uint16_t to_half(float value) {
    const uint32_t word = bits<uint32_t>(value), sign = word >> 16 & 0x8000, size = word & 0x7fffffff;
    if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (size < 0x38800000) return (uint16_t)(sign | (uint32_t)__builtin_rintf(bits<float>(size) * 0x1p24f));
    return (uint16_t)(sign | (size - 0x38000000 + 0xfff + (size >> 13 & 1)) >> 13);
}

// What is no number is `low`.
INLINE int nearest(float value, int low, int high) {
    const float whole = __builtin_rintf(value);
    return !(whole > (float)low) ? low : whole > (float)high ? high : (int)whole;
}

// The largest is 127 steps, as the scale is after rounding.
INLINE void round_q8_0(const float* values, uint8_t* block) {
    float peak = 0;
    for (int i = 0; i < GROUP; ++i)
        peak = __builtin_fabsf(values[i]) > peak ? __builtin_fabsf(values[i]) : peak;
    const uint16_t scale = to_half(peak / 127.0f);
    const float inverse = from_half(scale) > 0 ? 1.0f / from_half(scale) : 0.0f;
    memcpy(block, &scale, 2);
    for (int i = 0; i < GROUP; ++i) block[2 + i] = (uint8_t)nearest(values[i] * inverse, -127, 127);
}

// Two halves, as they lie in a block: value = steps * scale + least.
struct Line {
    float scale, least;

    Line rounded() const { return {from_half(to_half(scale)), from_half(to_half(least))}; }
    Floats steps(Floats values) const {
        const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
        const Floats exact = (values - all(least)) * all(inverse);
        return TRIPTYCH_ISA::rounded(smaller(larger(exact, Floats{}), all(15.0f)));
    }
};

// The line that is nearest to `values` [GROUP], given the steps that they take on another.
INLINE Line fit(const Line& line, const float* values) {
    Floats ones{}, steps{}, squares{}, products{};  // sums
    for (int i = 0; i < GROUP; i += LANES) {
        const Floats value = load(values + i), step = line.steps(value);
        ones += value, steps += step, squares += step * step, products += step * value;
    }
    const float count = GROUP, s = sum(steps), v = sum(ones), spread = count * sum(squares) - s * s;
    if (!(spread > 0)) return line;
    const float scale = (count * sum(products) - s * v) / spread;
    return {scale, (v - scale * s) / count};
}

INLINE float squared_error(const Line& line, const float* values) {
    Floats errors{};
    for (int i = 0; i < GROUP; i += LANES) {
        const Floats value = load(values + i),
                     apart = line.steps(value) * all(line.scale) + all(line.least) - value;
        errors += apart * apart;
    }
    return sum(errors);
}

// Sixteen steps from the least to the largest; or over a shorter way, where that is nearer to most of them.
INLINE Line best_line(const float* values) {
    float low = values[0], high = values[0];
    for (int i = 1; i < GROUP; ++i) {
        low = values[i] < low ? values[i] : low;
        high = values[i] > high ? values[i] : high;
    }
    Line best{(high - low) / 15.0f, low};
    best = best.rounded();
    float error = squared_error(best, values);
    for (float part = 1.0f; part > 0.75f; part -= 0.05f) {
        Line line{part * (high - low) / 15.0f, low + (1 - part) / 2 * (high - low)};
        for (int turn = 0; turn < 3; ++turn) line = fit(line, values);
        line = line.rounded();
        const float other = squared_error(line, values);
        if (other < error) best = line, error = other;
    }
    return best;
}

INLINE void round_q4_1(const float* values, uint8_t* block) {
    const Line line = best_line(values);
    const uint16_t halves[2] = {to_half(line.scale), to_half(line.least)};
    float steps[GROUP];
    for (int i = 0; i < GROUP; i += LANES) store(steps + i, line.steps(load(values + i)));
    memcpy(block, halves, 4);
    for (int i = 0; i < GROUP / 2; ++i)
        block[4 + i] = (uint8_t)((int)steps[i] | (int)steps[i + GROUP / 2] << 4);
}

// `format`: Q8_0 or Q4_1.
INLINE void round_block(int32_t format, const float* values, RawBlock& block) {
    if (format == Q8_0)
        round_q8_0(values, block.bytes);
    else
        round_q4_1(values, block.bytes);
}

// ---- places

INLINE uint32_t word_at(const uint8_t* bytes) {
    uint32_t word;
    memcpy(&word, bytes, 4);
    return word;
}

// Eight steps of four bits from two words of bytes that hold one in each half: `high` says in which.
INLINE uint32_t eight_steps(const uint8_t* bytes, bool high) {
    const uint32_t first = word_at(bytes), next = word_at(bytes + 4);
    return high ? (first >> 4 & 0x0f0f0f0f) | (next & 0xf0f0f0f0)
                : (first & 0x0f0f0f0f) | (next & 0x0f0f0f0f) << 4;
}

INLINE void put(char* at, int within, uint16_t half) { memcpy(at + within * 2, &half, 2); }
INLINE void put_word(char* words, int index, int within, uint32_t word) {
    memcpy(words + (index * PANEL + within) * 4, &word, 4);
}

INLINE uint16_t half_at(const uint8_t* bytes) {
    uint16_t half;
    memcpy(&half, bytes, 2);
    return half;
}

// In the file the low halves of 16 bytes are the first 16 steps, the high halves the others.
INLINE void put_nibbles(char* words, int within, const uint8_t* steps) {
    for (int index = 0; index < 4; ++index)
        put_word(words, index, within, eight_steps(steps + index % 2 * 8, index >= 2));
}

INLINE void place_q8_0(char* block, int within, const uint8_t* raw) {
    put(block, within, half_at(raw));
    for (int quad = 0; quad < QUADS; ++quad)
        put_word(block + PANEL * 2, quad, within, word_at(raw + 2 + quad * 4) ^ 0x80808080);  // + 128
}

// Scales and minima of eight blocks in 6 bits each: the upper two of the last four lie above those of the
// first.
INLINE void nested_scales(const uint8_t* packed, int index, uint8_t* scale, uint8_t* least) {
    if (index < 4) {
        *scale = packed[index] & 63;
        *least = packed[index + 4] & 63;
    } else {
        *scale = (uint8_t)((packed[index + 4] & 15) | packed[index - 4] >> 6 << 4);
        *least = (uint8_t)(packed[index + 4] >> 4 | packed[index] >> 6 << 4);
    }
}

INLINE void place_q4_k(char* outer, int within, const uint8_t* raw) {
    put(outer, within, half_at(raw));
    put(outer + PANEL * 2, within, half_at(raw + 2));
    for (int index = 0; index < NestedNibbles::BLOCKS; ++index) {
        char* block = outer + PANEL * 4 + index * NestedNibbles::INNER;
        nested_scales(raw + 4, index, (uint8_t*)block + within, (uint8_t*)block + PANEL + within);
        for (int word = 0; word < 4; ++word)
            put_word(block + PANEL * 2, word, within,
                     eight_steps(raw + 16 + index / 2 * 32 + word * 8, index % 2));
    }
}

// Block `index` of output `within` of a panel.
INLINE void place_block(int32_t format, char* panel, int within, int index, const uint8_t* raw) {
    switch (format) {
        case Q8_0:
            return place_q8_0(panel + index * Bytes::SIZE, within, raw);
        case Q4_0: {
            char* block = panel + index * CentredNibbles::SIZE;
            put(block, within, half_at(raw));
            return put_nibbles(block + PANEL * 2, within, raw + 2);
        }
        case Q4_1: {
            char* block = panel + index * FreeNibbles::SIZE;
            put(block, within, half_at(raw));
            put(block + PANEL * 2, within, half_at(raw + 2));
            return put_nibbles(block + PANEL * 4, within, raw + 4);
        }
        default:
            return place_q4_k(panel + index * NestedNibbles::OUTER, within, raw);
    }
}

INLINE void place_row(int32_t format, char* panel, int within, const uint8_t* raw, int inputs) {
    for (int index = 0; index < inputs / raw_inputs(format); ++index)
        place_block(format, panel, within, index, raw + index * raw_bytes(format));
}

// ---- and back

template <class Blocks>
inline void unpack_as(const Weight& matrix, const char* panel, int within, float* row) {
    const int v = within / LANES, lane = within % LANES;
    for (int index = 0; index < matrix.inputs / GROUP; ++index) {
        const Blocks block(panel, index);
        const Floats scale = block.scale(v), least = block.least(v);
        for (int quad = 0; quad < QUADS; ++quad) {
            const Ints steps = block.steps(quad, v);
            for (int i = 0; i < 4; ++i) {
                const float value = fma(to_floats(byte_of(steps, i)), scale, least)[lane];
                row[index * GROUP + quad * 4 + i] =
                    matrix.operand == BFLOAT16 ? from_bf16(to_bf16(value)) : value;
            }
        }
    }
}

// Row `within` of a panel, as the numbers that products take.
inline void unpack_blocks(const Weight& matrix, const char* panel, int within, float* row) {
    for_blocks(matrix.format,
               [&](auto kind) { unpack_as<typename decltype(kind)::Type>(matrix, panel, within, row); });
}

}  // namespace TRIPTYCH_ISA
