// Sixteen numbers at a time; the compiler maps them to the machine's own vectors. Arithmetic is float32, however numbers lie in
// memory: as floats, or as bfloat16. To be included.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef float V __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));
typedef uint16_t half;  // a bfloat16: the upper half of a float

static inline V wide(float x) { return x - V{}; }
static inline V load(const float* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
static inline V load(const half* p) {
#ifdef __AVX512F__  // in one instruction where GCC makes five of it
    return (V)((I)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)) << 16);
#else
    H h;
    std::memcpy(&h, p, sizeof h);
    return (V)(__builtin_convertvector(h, I) << 16);
#endif
}
static inline void store(float* p, V v) { std::memcpy(p, &v, sizeof v); }
static inline void store(half* p, V v) {  // to the nearest, ties to even
#ifdef __AVX512BF16__
    auto h = _mm512_cvtneps_pbh((__m512)v);
    std::memcpy(p, &h, sizeof h);
#else
    I i = (I)v;
    H h = __builtin_convertvector((i + 0x7fff + ((i >> 16) & 1)) >> 16, H);
    std::memcpy(p, &h, sizeof h);
#endif
}
static inline float one(const float* p) { return *p; }
static inline float one(const half* p) {
    uint32_t i = uint32_t(*p) << 16;
    float x;
    std::memcpy(&x, &i, 4);
    return x;
}
static inline void set(float* p, float x) { *p = x; }
static inline void set(half* p, float x) {
    uint32_t i;
    std::memcpy(&i, &x, 4);
    *p = (i + 0x7fff + ((i >> 16) & 1)) >> 16;
}
// of what is no number, b
static inline V least(V a, V b) { return a < b ? a : b; }
static inline V most(V a, V b) { return a > b ? a : b; }

// 2^y to 2e-7: 2^n times a polynomial of the rest (Cephes, exp2f)
static inline V two(V y) {
    V up = y + 12582912.f, f = y - (up - 12582912.f);
    V p = f * 1.535336188319500e-4f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.f;
    return (V)((I)p + ((I)up << 23));
}
static inline V expo(V x) { return two(least(wide(88.f), most(wide(-87.f), x)) * 1.44269504f); }
static inline V sigmoid(V y) { return 1.f / (1.f + expo(-y)); }

typedef float V8 __attribute__((vector_size(32)));
// the lower eight and the upper; not by way of memory where that can be said: a sum that grows in a loop would lie there meanwhile
static inline void halves(V v, V8& low, V8& high) {
#ifdef __AVX512F__
    low = (V8)_mm512_castps512_ps256((__m512)v), high = (V8)_mm512_extractf64x4_pd((__m512d)v, 1);
#else
    std::memcpy(&low, &v, sizeof low), std::memcpy(&high, (char*)&v + sizeof low, sizeof high);
#endif
}
static inline float top(V v) {
    V8 a, b;
    halves(v, a, b);
    a = a > b ? a : b;
    float m = a[0];
    for (int i = 1; i < 8; i++) m = a[i] > m ? a[i] : m;
    return m;
}
static inline float total(V v) {
    V8 a, b;
    halves(v, a, b);
    a += b;
    return ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]));
}
