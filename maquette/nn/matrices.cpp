// A few rows times a matrix that lies in 32, 16, 8 or 4 bits, shared out among threads. To be included. Such a product takes as
// long as the matrix takes to come from memory: what unpacks it must be quicker than that, and nobody may wait long for the others.
#pragma once
#include <vector>

#include "threads.cpp"
#include "vectors.cpp"

typedef int16_t W __attribute__((vector_size(64)));

// weight: floats or bfloat16 [out,in]; or, in 8 and 4 bits, blocks of 16 outputs: [out/16][in/2][16][2] bytes, and
// [out/16][in/8][16][2] words of four inputs each, the first lowest, that stand for numbers of `table`. scales: bfloat16
// [out/16][in/group][16]. out and in are counted with what pads them to whole blocks and groups; kept: the outputs there are.
struct Matrix {
    const void* weight;
    const half* scales;
    const int16_t* table;
    const float* bias;
    int64_t out, in, kept, group, bits;
};

// -- what differs between machines ------------------------------------------------------------------------------------------------

static inline V fused(V sum, V a, V b) { return sum + a * b; }

// sum + the products of 32 bfloat16, two to a lane
static inline V pairs(V sum, const half* a, const half* b) {
#ifdef __AVX512BF16__
    return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_loadu_si512(a), (__m512bh)_mm512_loadu_si512(b));
#else
    I i, j;
    std::memcpy(&i, a, sizeof i), std::memcpy(&j, b, sizeof j);
    const I high = I{} + int32_t(0xffff0000);
    sum = fused(sum, (V)(i << 16), (V)(j << 16));
    return fused(sum, (V)(i & high), (V)(j & high));
#endif
}

// sum + the products of 32 integers with one pair, two to a lane
static inline I pairs(I sum, W a, const int16_t* pair) {
    int32_t both;
    std::memcpy(&both, pair, 4);
#ifdef __AVX512VNNI__
    return (I)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)a, _mm512_set1_epi32(both));
#else
    const int32_t low = int16_t(both), high = both >> 16;
    return sum + ((I)a << 16 >> 16) * low + ((I)a >> 16) * high;
#endif
}

// the numbers of a table that the lowest four bits of 32 words choose; the table is there twice, so that the fifth is not heeded
static inline W chosen(W table, W words) {
#ifdef __AVX512BW__
    return (W)_mm512_permutexvar_epi16((__m512i)words, (__m512i)table);
#else
    W found;
    for (int i = 0; i < 32; i++) found[i] = table[words[i] & 15];
    return found;
#endif
}

static inline W widened(const int8_t* p) {
    typedef int8_t B __attribute__((vector_size(32)));
    B b;
    std::memcpy(&b, p, sizeof b);
    return __builtin_convertvector(b, W);
}

// -- products ---------------------------------------------------------------------------------------------------------------------

// Rows as a matrix wants them. Every thread makes its own: that costs less than to wait for another.
struct Rows {
    std::vector<half> halves;
    std::vector<int16_t> whole;
    std::vector<float> floats;
    float scale[8];
    int64_t step = 0;

    void take(const Matrix& m, int64_t n, const float* x, int64_t wide) {
        step = (m.in + 31) / 32 * 32;
        if (m.bits == 32) {
            floats.assign(n * step, 0);
            for (int64_t i = 0; i < n; i++) std::memcpy(&floats[i * step], x + i * wide, wide * 4);
        } else if (m.bits == 16) {
            halves.assign(n * step, 0);
            for (int64_t i = 0; i < n; i++) {
                int64_t c = 0;
                for (; c + 16 <= wide; c += 16) store(&halves[i * step + c], load(x + i * wide + c));
                for (; c < wide; c++) set(&halves[i * step + c], x[i * wide + c]);
            }
        } else {
            whole.assign(n * step, 0);
            for (int64_t i = 0; i < n; i++) {
                V high = {}, none = {};  // none: 0, unless something is no finite number
                int64_t c = 0;
                for (; c + 16 <= wide; c += 16) {
                    const V v = load(x + i * wide + c);
                    high = most(high, most(v, -v)), none += v * 0.f;
                }
                float limit = top(high) + total(none);
                for (; c < wide; c++) limit = x[i * wide + c] == x[i * wide + c] ? std::fmax(limit, std::fabs(x[i * wide + c])) : NAN;
                scale[i] = limit / 32767;
                const float by = limit > 0 ? 32767 / limit : 0;
                for (c = 0; c + 16 <= wide; c += 16) {
                    typedef int16_t S __attribute__((vector_size(32)));
                    S v = __builtin_convertvector((I)(load(x + i * wide + c) * by + 12582912.f) - 0x4b400000, S);
                    std::memcpy(&whole[i * step + c], &v, sizeof v);
                }
                for (; c < wide; c++) whole[i * step + c] = int16_t(std::lrintf(x[i * wide + c] * by));
            }
        }
    }
};

static inline V part(V sum, const float* w, const float* x) { return fused(fused(sum, load(w), load(x)), load(w + 16), load(x + 16)); }
static inline V part(V sum, const half* w, const half* x) { return pairs(sum, w, x); }

// Sixteen outputs of N rows, one after another: memory is quickest in one straight line.
template <class T, int N>
static void lying(const Matrix& m, int64_t block, const T* x, int64_t step, float sums[N][16]) {
    const int U = N == 1 ? 4 : N < 4 ? 2 : 1;
    const int64_t first = 16 * block, some = m.out - first < 16 ? m.out - first : 16;
    const T* w = (const T*)m.weight + first * m.in;
    for (int64_t r = 0; r < some; r++, w += m.in) {
        V sum[U][N] = {};
        int64_t c = 0;
        for (; c + 32 * U <= m.in; c += 32 * U)
            for (int u = 0; u < U; u++)
                for (int n = 0; n < N; n++) sum[u][n] = part(sum[u][n], w + c + 32 * u, x + n * step + c + 32 * u);
        for (; c + 32 <= m.in; c += 32)
            for (int n = 0; n < N; n++) sum[0][n] = part(sum[0][n], w + c, x + n * step + c);
        for (int n = 0; n < N; n++) {
            for (int u = 1; u < U; u++) sum[0][n] += sum[u][n];
            float all = total(sum[0][n]);
            for (int64_t i = c; i < m.in; i++) all += one(w + i) * one(x + n * step + i);
            sums[n][r] = all;
        }
    }
}

template <int BITS, int N>
static void packed(const Matrix& m, int64_t block, const Rows& x, float sums[N][16]) {
    const int64_t G = m.group;
    const char* from = (const char*)m.weight + block * m.in * 2 * BITS;
    const half* scales = m.scales + block * (m.in / G) * 16;
    W table = {};
    if (BITS == 4) std::memcpy(&table, m.table, sizeof table);
    V all[N] = {};
    for (int64_t g = 0; g < m.in; g += G) {
        I sum[N] = {};
        const int16_t* at = &x.whole[g];
        if (BITS == 8)
            for (int64_t c = 0; c < G; c += 2, from += 32) {
                const W w = widened((const int8_t*)from);
                for (int n = 0; n < N; n++) sum[n] = pairs(sum[n], w, at + n * x.step + c);
            }
        else
            for (int64_t c = 0; c < G; c += 8, from += 64) {
                W words;
                std::memcpy(&words, from, sizeof words);
                for (int k = 0; k < 4; k++) {
                    const W w = chosen(table, words >> (4 * k));
                    for (int n = 0; n < N; n++) sum[n] = pairs(sum[n], w, at + n * x.step + c + 2 * k);
                }
            }
        const V s = load(scales + g / G * 16);
        for (int n = 0; n < N; n++) all[n] = fused(all[n], __builtin_convertvector(sum[n], V), s);
    }
    for (int n = 0; n < N; n++) store(sums[n], all[n] * x.scale[n]);
}

template <int N>
static void block_of(const Matrix& m, int64_t block, const Rows& x, float sums[N][16]) {
    if (m.bits == 32) lying<float, N>(m, block, x.floats.data(), x.step, sums);
    else if (m.bits == 16) lying<half, N>(m, block, x.halves.data(), x.step, sums);
    else if (m.bits == 8) packed<8, N>(m, block, x, sums);
    else packed<4, N>(m, block, x, sums);
}

// Outputs in blocks of sixteen, a few blocks at a time, whoever is free: y [n, kept] at most 8 rows, then everyone waits for all.
static void multiply(Team& team, std::atomic<int64_t>& next, const Matrix& m, int64_t n, const Rows& x, float* y) {
    static void (*const by_count[])(const Matrix&, int64_t, const Rows&, float[][16]) = {
        block_of<1>, block_of<2>, block_of<3>, block_of<4>, block_of<5>, block_of<6>, block_of<7>, block_of<8>};
    const int64_t blocks = (m.out + 15) / 16, share = (1 << 16) / (2 * m.in * m.bits) + 1;
    float sums[8][16];
    for (int64_t first; (first = next.fetch_add(share)) < blocks;)
        for (int64_t b = first; b < first + share && b < blocks; b++) {
            by_count[n - 1](m, b, x, sums);
            const int64_t some = m.kept - 16 * b < 16 ? m.kept - 16 * b : 16;
            for (int64_t i = 0; i < n; i++)
                for (int64_t r = 0; r < some; r++) y[i * m.kept + 16 * b + r] = sums[i][r] + (m.bias ? m.bias[16 * b + r] : 0);
        }
    team.meet();
}
