// Vectors of one instruction set, and what the kernels do with them.
//
// Everything that is multiplied is laid out in words of 32 bits: one float, a pair of bfloat16 or four bytes.
// A vector holds LANES words. This header is compiled once for each instruction set, in a namespace of its
// own.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace TRIPTYCH_ISA {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

using Floats = float __attribute__((vector_size(LANES * 4)));
using Ints = int32_t __attribute__((vector_size(LANES * 4)));

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

template <class To, class From>
INLINE To bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}

INLINE Floats load(const float* from) {
    Floats vector;
    memcpy(&vector, from, sizeof vector);
    return vector;
}
INLINE Ints load_words(const int32_t* from) {
    Ints vector;
    memcpy(&vector, from, sizeof vector);
    return vector;
}
INLINE void store(float* to, Floats vector) { memcpy(to, &vector, sizeof vector); }
INLINE void store_words(int32_t* to, Ints vector) { memcpy(to, &vector, sizeof vector); }
INLINE Floats all(float value) { return value - Floats{}; }
INLINE Ints all_words(int32_t value) { return value - Ints{}; }

INLINE Floats fma(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#else
    return a * b + c;
#endif
}

INLINE Floats choose(Ints where, Floats yes, Floats no) { return where ? yes : no; }
// Of a number and none, `b`.
INLINE Floats larger(Floats a, Floats b) {
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#else
    return choose(a > b, a, b);
#endif
}
INLINE Floats smaller(Floats a, Floats b) {
#if defined(__AVX512F__)
    return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_min_ps(a, b);
#else
    return choose(a < b, a, b);
#endif
}
INLINE Floats absolute(Floats a) { return bits<Floats>(bits<Ints>(a) & 0x7fffffff); }
// The lowest byte of each word.
INLINE void store_bytes(int8_t* to, Ints words) {
    using Bytes = int8_t __attribute__((vector_size(LANES)));
    const Bytes bytes = __builtin_convertvector(words, Bytes);
    memcpy(to, &bytes, sizeof bytes);
}
INLINE Floats to_floats(Ints a) { return __builtin_convertvector(a, Floats); }

// To the nearest integer, ties to even; |a| < 2^22.
INLINE Floats rounded(Floats a) {
    const Floats magic = all(12582912.0f);  // 1.5 * 2^23: what is left of the fraction is rounded away
    return (a + magic) - magic;
}
INLINE Ints to_ints(Floats a) {
#if defined(__AVX512F__)
    return (Ints)_mm512_cvtps_epi32(a);
#else
    return __builtin_convertvector(rounded(a), Ints);
#endif
}

// Halves are added in a fixed order, so that the sum is the same wherever it is taken.
INLINE float sum(Floats vector) {
    float parts[LANES];
    memcpy(parts, &vector, sizeof parts);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
    return parts[0];
}
INLINE float largest(Floats vector) {
    float parts[LANES];
    memcpy(parts, &vector, sizeof parts);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; ++i) parts[i] = parts[i] > parts[i + half] ? parts[i] : parts[i + half];
    return parts[0];
}
INLINE int32_t sum_words(Ints vector) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_epi32((__m512i)vector);
#else
    int32_t total = 0;
    for (int i = 0; i < LANES; ++i) total += vector[i];
    return total;
#endif
}
INLINE int32_t largest_word(Ints vector) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_epi32((__m512i)vector);
#else
    int32_t most = vector[0];
    for (int i = 1; i < LANES; ++i) most = vector[i] > most ? vector[i] : most;
    return most;
#endif
}

// ---- bfloat16

INLINE float from_bf16(uint16_t value) { return bits<float>((uint32_t)value << 16); }
INLINE uint16_t to_bf16(float value) {
    uint32_t word = bits<uint32_t>(value);
    if ((word & 0x7fffffff) > 0x7f800000) return (uint16_t)(word >> 16 | 0x40);  // a NaN stays one
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

using Halves = uint16_t __attribute__((vector_size(LANES * 2)));

INLINE Floats load_bf16(const uint16_t* from) {
    Halves halves;
    memcpy(&halves, from, sizeof halves);
    return bits<Floats>(__builtin_convertvector(halves, Ints) << 16);
}
INLINE void store_bf16(uint16_t* to, Floats vector) {
#if defined(__AVX512BF16__)
    auto halves = _mm512_cvtneps_pbh(vector);
    memcpy(to, &halves, sizeof halves);
#else
    for (int i = 0; i < LANES; ++i) to[i] = to_bf16(vector[i]);
#endif
}

// `low` in the lower halves of words, `high` in the upper ones, both rounded to the nearest.
INLINE Ints join_bf16(Floats low, Floats high) {
#if defined(__AVX512BF16__)
    alignas(64) static constexpr uint16_t PAIRS[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                       21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                       11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512bh both = _mm512_cvtne2ps_pbh(high, low);
    return (Ints)_mm512_permutexvar_epi16(_mm512_load_si512(PAIRS), (__m512i)both);
#else
    const Ints one = all_words(1), half = all_words(0x7fff), upper = all_words((int32_t)0xffff0000);
    const Ints a = bits<Ints>(low), b = bits<Ints>(high);
    const Ints first = (a + half + (a >> 16 & one)) >> 16 & 0xffff;
    return first | ((b + half + (b >> 16 & one)) & upper);
#endif
}

// ---- halves: IEEE's binary16, and bytes

INLINE float from_half(uint16_t value) {
    const uint32_t sign = (uint32_t)(value & 0x8000) << 16, exponent = value >> 10 & 31,
                   digits = value & 0x3ff;
    if (exponent == 31) return bits<float>(sign | 0x7f800000 | digits << 13);
    const float size =
        exponent ? bits<float>((exponent + 112) << 23 | digits << 13) : (float)digits * 0x1p-24f;
    return bits<float>(sign | bits<uint32_t>(size));
}

INLINE Floats load_halves(const uint16_t* from) {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#elif defined(__F16C__)
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#else
    Floats vector;
    for (int i = 0; i < LANES; ++i) vector[i] = from_half(from[i]);
    return vector;
#endif
}

INLINE Floats load_bytes(const uint8_t* from) {
    uint8_t __attribute__((vector_size(LANES))) bytes;
    memcpy(&bytes, from, sizeof bytes);
    return __builtin_convertvector(bytes, Floats);
}

// Byte `index` of each word.
INLINE Ints byte_of(Ints words, int index) { return words >> (8 * index) & 255; }

// ---- products of words

// Each word a float: sum + w x.
struct Single {
    using Element = float;
    static constexpr int PER_WORD = 1;
    static INLINE Floats dot(Floats sum, Ints w, Ints x) {
        return fma(bits<Floats>(w), bits<Floats>(x), sum);
    }
    static INLINE void write(float* to, Floats vector) { store(to, vector); }
    static INLINE float round(float value) { return value; }
    static INLINE float widen(float value) { return value; }
};

// Each word two bfloat16: sum + w0 x0 + w1 x1, in float32.
struct Pair {
    using Element = uint16_t;
    static constexpr int PER_WORD = 2;
    static INLINE Floats dot(Floats sum, Ints w, Ints x) {
#if defined(__AVX512BF16__)
        return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x);
#else
        sum = fma(bits<Floats>(w << 16), bits<Floats>(x << 16), sum);
        const Ints high = all_words((int32_t)0xffff0000);
        return fma(bits<Floats>(w & high), bits<Floats>(x & high), sum);
#endif
    }
    static INLINE void write(uint16_t* to, Floats vector) { store_bf16(to, vector); }
    static INLINE uint16_t round(float value) { return to_bf16(value); }
    static INLINE float widen(uint16_t value) { return from_bf16(value); }
};

// Four unsigned bytes of w times four signed of x, added to 32-bit sums: exact.
INLINE Ints dot_bytes(Ints sum, Ints w, Ints x) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x);
#elif defined(__AVX2__)
    const __m256i low = _mm256_set1_epi16(255), wide = (__m256i)w, narrow = (__m256i)x;
    __m256i even =
        _mm256_madd_epi16(_mm256_and_si256(wide, low), _mm256_srai_epi16(_mm256_slli_epi16(narrow, 8), 8));
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(wide, 8), _mm256_srai_epi16(narrow, 8));
    return sum + (Ints)even + (Ints)odd;
#else
    for (int byte = 0; byte < 4; ++byte) sum += (w >> (8 * byte) & 255) * (x << (24 - 8 * byte) >> 24);
    return sum;
#endif
}

// The same with four signed bytes that lie at `x`, for all of w.
INLINE Ints dot_bytes_at(Ints sum, Ints w, const void* x) {
#if defined(__AVX512VNNI__)
    // Compilers spread them to a register first, which they do not have.
    asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w), "m"(*(const int32_t*)x));
    return sum;
#else
    int32_t bytes;
    memcpy(&bytes, x, sizeof bytes);
    return dot_bytes(sum, w, all_words(bytes));
#endif
}

// ---- functions

// c[0] + c[1] x + c[2] x^2 ...
template <int COUNT>
INLINE Floats polynomial(const float (&c)[COUNT], Floats x) {
    Floats sum = all(c[COUNT - 1]);
    UNROLL for (int i = COUNT - 2; i >= 0; --i) sum = fma(sum, x, all(c[i]));
    return sum;
}

// x 2^whole; `whole` are integers from -126 to 127.
INLINE Floats scaled(Floats x, Floats whole) {
#if defined(__AVX512F__)
    return _mm512_scalef_ps(x, whole);
#else
    return x * bits<Floats>((to_ints(whole) + 127) << 23);
#endif
}

// e^x with a relative error below 2e-7; 0 below -87. What is no number stays none, as in all functions here.
INLINE Floats exp(Floats x) {
    constexpr float SERIES[] = {5.0000001201e-1f, 1.6666665459e-1f, 4.1665795894e-2f,  // Cephes, expf
                                8.3334519073e-3f, 1.3981999507e-3f, 1.9875691500e-4f};
    const Floats low = all(-87.3f), clamped = smaller(all(88.0f), larger(low, x));
    const Floats whole = rounded(clamped * all(1.44269504f));
    // ln 2 in two parts: the first has few digits, so that its product with `whole` is exact.
    Floats part = fma(whole, all(-0.693359375f), clamped);
    part = fma(whole, all(2.12194440e-4f), part);
    const Floats power = fma(polynomial(SERIES, part) * part, part, part + all(1.0f));
    return choose(x < low, Floats{}, scaled(power, whole));
}

INLINE Floats tanh(Floats x) { return all(1.0f) - all(2.0f) / (exp(x + x) + all(1.0f)); }

// x / (1 + e^-y)
INLINE Floats times_sigmoid(Floats x, Floats y) { return x / (all(1.0f) + exp(-y)); }

// x times the share of a normal distribution that is below x, with an absolute error below 1e-6 (Hendrycks,
// Gimpel 2016, arXiv 1606.08415): max(x, 0) - t above(t), t = |x|. What is above t is next to nothing from
// 2 MIDDLE on; up to there it is a polynomial of t - MIDDLE, fitted so that t times its error is least.
INLINE Floats gelu(Floats x) {
    constexpr float MIDDLE = 2.59375f;
    constexpr float ABOVE[] = {4.746973515e-03f,  -1.380478311e-02f, 1.789994724e-02f,  -1.317985635e-02f,
                               5.572365597e-03f,  -9.078008588e-04f, -3.608482948e-04f, 2.389970468e-04f,
                               -3.353726061e-05f, -1.315253667e-05f, 5.021789093e-06f,  -5.716124107e-08f,
                               -1.943660379e-07f, 2.306150826e-08f};
    const Floats size = smaller(all(2 * MIDDLE), absolute(x));
    return fma(-size, polynomial(ABOVE, size - all(MIDDLE)), larger(Floats{}, x));
}

}  // namespace TRIPTYCH_ISA
