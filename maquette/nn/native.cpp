// Group normalisation and SiLU in one, and attention of small heads, for a CPU. T is how numbers lie in memory. Rows first .. last
// of a batch.
#include <vector>

#include "threads.cpp"
#include "tiles.cpp"
#include "vectors.cpp"

// x [B,P,C]; shift, sums, scale, offset [B,C]; stats [B,2,G] (mean, 1/deviation)
template <class T, int U>
static void norm(int64_t first, int64_t last, int64_t P, int64_t C, int64_t G, float eps, bool silu, const T* x, const float* shift,
                 const float* weight, const float* bias, T* y, float* sums, float* scale, float* offset, float* stats) {
    const int64_t W = C / G;
    std::vector<float> squares(C);
    for (int64_t b = first; b < last; b++) {
        const T* from = x + b * P * C;
        T* to = y + b * P * C;
        float *s = sums + b * C, *a = scale + b * C, *o = offset + b * C;
        for (int64_t c = 0; c < C; c += 16 * U) {
            V one[U] = {}, two[U] = {};
            for (int64_t p = 0; p < P; p++)
                for (int u = 0; u < U; u++) {
                    V v = load(from + p * C + c + 16 * u);
                    one[u] += v;
                    two[u] += v * v;
                }
            for (int u = 0; u < U; u++) store(s + c + 16 * u, one[u]), store(&squares[c + 16 * u], two[u]);
        }
        for (int64_t g = 0; g < G; g++) {
            double total = 0, square = 0, n = double(P * W);
            for (int64_t c = g * W; c < (g + 1) * W; c++) {
                double t = shift ? shift[b * C + c] : 0;
                total += s[c] + P * t;
                square += squares[c] + t * (2 * double(s[c]) + P * t);
            }
            double mean = total / n, rest = square / n - mean * mean, rstd = 1 / std::sqrt((rest > 0 ? rest : 0) + eps);
            stats[b * 2 * G + g] = mean;
            stats[b * 2 * G + G + g] = rstd;
            for (int64_t c = g * W; c < (g + 1) * W; c++) {
                a[c] = rstd * weight[c];
                o[c] = bias[c] + a[c] * ((shift ? shift[b * C + c] : 0) - mean);
            }
        }
        for (int64_t c = 0; c < C; c += 16 * U) {
            V A[U], O[U];
            for (int u = 0; u < U; u++) A[u] = load(a + c + 16 * u), O[u] = load(o + c + 16 * u);
            for (int64_t p = 0; p < P; p++)
                for (int u = 0; u < U; u++) {
                    V v = load(from + p * C + c + 16 * u) * A[u] + O[u];
                    store(to + p * C + c + 16 * u, silu ? v * sigmoid(v) : v);
                }
        }
    }
}

// the gradients of x and shift, and of weight and bias per row [B,C]
template <class T, int U>
static void norm_back(int64_t first, int64_t last, int64_t P, int64_t C, int64_t G, bool silu, const T* x, const T* grad,
                      const float* shift, const float* weight, const float* sums, const float* scale, const float* offset,
                      const float* stats, T* dx, float* dshift, float* dweight, float* dbias) {
    const int64_t W = C / G;
    std::vector<float> slopes(P * C), flat(C), tilt(C);
    for (int64_t b = first; b < last; b++) {
        const T *from = x + b * P * C, *up = grad + b * P * C;
        T* to = dx + b * P * C;
        const float *a = scale + b * C, *o = offset + b * C;
        float *db = dbias + b * C, *dw = dweight + b * C;
        for (int64_t c = 0; c < C; c += 16 * U) {
            V A[U], O[U], one[U] = {}, two[U] = {};
            for (int u = 0; u < U; u++) A[u] = load(a + c + 16 * u), O[u] = load(o + c + 16 * u);
            for (int64_t p = 0; p < P; p++)
                for (int u = 0; u < U; u++) {
                    const int64_t at = p * C + c + 16 * u;
                    V v = load(from + at), d = load(up + at);
                    if (silu) {
                        V h = v * A[u] + O[u], s = sigmoid(h);
                        d *= s * (1.f + h * (1.f - s));
                    }
                    one[u] += d;
                    two[u] += d * v;
                    store(&slopes[at], d);
                }
            for (int u = 0; u < U; u++) store(db + c + 16 * u, one[u]), store(dw + c + 16 * u, two[u]);
        }
        for (int64_t g = 0; g < G; g++) {
            const double mean = stats[b * 2 * G + g], rstd = stats[b * 2 * G + G + g], n = double(P * W);
            double all = 0, along = 0;
            for (int64_t c = g * W; c < (g + 1) * W; c++) {
                dw[c] = rstd * (dw[c] + ((shift ? shift[b * C + c] : 0) - mean) * db[c]);
                all += weight[c] * double(db[c]);
                along += weight[c] * double(dw[c]);
            }
            for (int64_t c = g * W; c < (g + 1) * W; c++) {
                tilt[c] = -rstd * rstd * along / n;
                flat[c] = -rstd * all / n + tilt[c] * ((shift ? shift[b * C + c] : 0) - mean);
                if (dshift) dshift[b * C + c] = a[c] * db[c] + P * flat[c] + tilt[c] * sums[b * C + c];
            }
        }
        for (int64_t c = 0; c < C; c += 16 * U) {
            V A[U], K[U], L[U];
            for (int u = 0; u < U; u++) A[u] = load(a + c + 16 * u), K[u] = load(&flat[c + 16 * u]), L[u] = load(&tilt[c + 16 * u]);
            for (int64_t p = 0; p < P; p++)
                for (int u = 0; u < U; u++) {
                    const int64_t at = p * C + c + 16 * u;
                    store(to + at, load(&slopes[at]) * A[u] + load(from + at) * L[u] + K[u]);
                }
        }
    }
}

// for the scores of attention, in sixteens first .. last: x = e^x; x = x y
template <class T>
static void exponential(int64_t first, int64_t last, T* x) {
    for (int64_t i = 16 * first; i < 16 * last; i += 16) store(x + i, expo(load(x + i)));
}
template <class T>
static void product(int64_t first, int64_t last, T* x, const T* y) {
    for (int64_t i = 16 * first; i < 16 * last; i += 16) store(x + i, load(x + i) * load(y + i));
}

// What attention multiplies: a float, or a pair of bfloat16 where the machine multiplies pairs. P is how one number is kept, N of
// them make an element E; a vector of elements times one element.
template <class T> struct Unit { typedef float P; typedef float E; static const int N = 1; };
static inline V dot(V sum, const float* row, float by) { return sum + load(row) * by; }
#ifdef __AVX512BF16__
template <> struct Unit<half> { typedef half P; typedef uint32_t E; static const int N = 2; };
static inline V dot(V sum, const uint32_t* row, uint32_t by) {
    return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_loadu_si512(row), (__m512bh)_mm512_set1_epi32(by));
}
#endif
static inline void copy(float* to, const float* from) { *to = *from; }
static inline void copy(half* to, const half* from) { *to = *from; }
static inline void copy(float* to, const half* from) { *to = one(from); }

// scores[q][S] of Q queries [Q][D] to keys first .. last, which lie by sixteens, [S/16][D][16]; they begin at off[S]
template <int Q, class E>
static void score(int64_t first, int64_t last, int64_t D, int64_t S, const E* asked, const E* keys, const float* off, float* scores) {
    for (int64_t s = first; s < last; s += 32) {
        V sum[Q][2];
        for (int q = 0; q < Q; q++) sum[q][0] = load(off + s), sum[q][1] = load(off + s + 16);
        for (int64_t c = 0; c < D; c++)
            for (int q = 0; q < Q; q++)
                for (int u = 0; u < 2; u++) sum[q][u] = dot(sum[q][u], keys + (s + 16 * u) * D + 16 * c, asked[q * D + c]);
        for (int q = 0; q < Q; q++) store(scores + q * S + s, sum[q][0]), store(scores + q * S + s + 16, sum[q][1]);
    }
}

// to[q][wide] = sums of `count` rows of `from`, by weights [Q][step]
template <int Q, int U, class E>
static inline void mix(int64_t count, const E* by, int64_t step, const E* from, int64_t wide, float* to) {
    V sum[Q][U] = {};
    for (int64_t i = 0; i < count; i++)
        for (int q = 0; q < Q; q++)
            for (int u = 0; u < U; u++) sum[q][u] = dot(sum[q][u], from + i * wide + 16 * u, by[q * step + i]);
    for (int q = 0; q < Q; q++)
        for (int u = 0; u < U; u++) store(to + q * wide + 16 * u, sum[q][u]);
}

// All sixteen queries' scores, and then their sums of values: by the matrix unit, or eight at a time by vectors.
template <class E>
static void score_all(int64_t first, int64_t last, int64_t D, int64_t S, const E* asked, const E* keys, const float* off, float* to) {
    if (tiles_score(first, last, D, S, asked, keys, off, to)) return;
    for (int q = 0; q < 16; q += 8) score<8>(first, last, D, S, asked + q * D, keys, off, to + q * S);
}
template <class E>
static void mix_all(int64_t count, const E* by, int64_t step, const E* from, int64_t wide, float* to) {
    if (tiles_mix(count, by, step, from, wide, to)) return;
    for (int q = 0; q < 16; q += 8) {
        int64_t c = 0;
        for (; c + 32 <= wide; c += 32) mix<8, 2>(count, by + q * step, step, from + c, wide, to + q * wide + c);
        if (c < wide) mix<8, 1>(count, by + q * step, step, from + c, wide, to + q * wide + c);
    }
}

// Attention of T queries to S keys, a head of a row of the batch at a time: q [B,T,H,C], k, v [B,S,G,C], whose rows, places and heads
// lie `apart` numbers apart, three for each; bias [B,S] or none; y [B,T,H,C]. Sixteen queries at a time, whose scores stay in the
// nearest caches. near: the newest places, its own included, that a query sees, which is the newest but those after it; 0 = it sees
// all, after it, too.
template <class T>
static void heed(int64_t first, int64_t last, int64_t places, int64_t seen, int64_t H, int64_t G, int64_t C, float scale,
                 int64_t near, const int64_t* apart, const T* q, const T* k, const T* v, const float* bias, T* y) {
    typedef typename Unit<T>::P P;
    typedef typename Unit<T>::E E;
    const int Q = 16, N = Unit<T>::N;
    const int64_t S = (seen + 31) / 32 * 32, W = (C + 15) / 16 * 16, D = (C + 16 * N - 1) / (16 * N) * 16;
    std::vector<E> keys(D * S), values(S / N * W), asked(Q * D), weights(Q * S / N);
    std::vector<float> scores(Q * S), sums(Q * W), off(S, -3e38f);
    const Tiles tiles;
    for (int64_t row = first, held = -1; row < last; row++) {
        const int64_t b = row / H, h = row % H, g = h / (H / G);
        for (int64_t s = 0; s < seen && b * G + g != held; s += 16) {
            const T *key = k + b * apart[3] + s * apart[4] + g * apart[5], *value = v + b * apart[6] + s * apart[7] + g * apart[8];
            const int64_t some = seen - s < 16 ? seen - s : 16;
            for (int64_t c = 0; c < C; c++)
                for (int64_t i = 0; i < some; i++) copy((P*)&keys[s * D + c / N * 16 + i] + c % N, key + i * apart[4] + c);
            for (int64_t i = 0; i < some; i++)
                for (int64_t c = 0; c < C; c++) copy((P*)&values[(s + i) / N * W + c] + i % N, value + i * apart[7] + c);
            for (int64_t i = s; i < s + some; i++) off[i] = bias ? bias[b * seen + i] : 0.f;
        }
        held = b * G + g;
        for (int64_t t = 0; t < places; t += Q) {
            const int64_t own = near ? seen - places + t : seen - 1;  // the newest place that the first of the sixteen sees
            const int64_t end = own + Q < seen ? (own + Q + 31) / 32 * 32 : S, from = near && own >= near ? (own + 1 - near) / 32 * 32 : 0;
            for (int i = 0; i < Q; i++) {  // the last one again where fewer are left
                const T* at = q + b * apart[0] + (t + i < places ? t + i : places - 1) * apart[1] + h * apart[2];
                for (int64_t c = 0; c < C; c++) copy((P*)&asked[i * D] + c, at + c);
            }
            score_all(from, end, D, S, &asked[0], &keys[0], &off[0], &scores[0]);
            float share[Q];
            for (int i = 0; i < Q; i++) {
                float* score = &scores[i * S];
                for (int64_t s = own + i + 1; near && s < end; s++) score[s] = -3e38f;
                for (int64_t s = from; near && s < end && s <= own + i - near; s++) score[s] = -3e38f;  // of none left: all
                V high = load(score + from);
                for (int64_t s = from + 16; s < end; s += 16) high = most(high, load(score + s));
                const V by = wide(scale * 1.44269504f), best = wide(top(high));
                V all = {};
                for (int64_t s = from; s < end; s += 16) {
                    V e = two(most(wide(-126.f), (load(score + s) - best) * by));
                    all += e;
                    store((P*)&weights[i * S / N] + s, e);
                }
                share[i] = 1 / total(all);
            }
            mix_all((end - from) / N, &weights[from / N], S / N, &values[from / N * W], W, &sums[0]);
            for (int i = 0; i < Q && t + i < places; i++)
                for (int64_t c = 0; c < C; c++) set(y + ((b * places + t + i) * H + h) * C + c, sums[i * W + c] * share[i]);
        }
    }
}

// value times GELU(gate), exact: the error function by Abramowitz & Stegun 7.1.26, to 1.5e-7. x [N,2D], y [N,D], D in sixteens
template <class T>
static void geglu(int64_t first, int64_t last, int64_t D, const T* x, T* y) {
    for (int64_t n = first; n < last; n++)
        for (int64_t i = 0; i < D; i += 16) {
            V g = load(x + 2 * n * D + D + i), a = g < 0.f ? -g : g, t = 1.f / (1.f + 0.3275911f * 0.70710678f * a);
            V p = 1.061405429f * t - 1.453152027f;
            p = p * t + 1.421413741f;
            p = p * t - 0.284496736f;
            p = p * t + 0.254829592f;
            V tail = 0.5f * p * t * expo(-0.5f * a * a);  // of the normal distribution beyond |g|
            store(y + n * D + i, load(x + 2 * n * D + i) * g * (g < 0.f ? tail : 1.f - tail));
        }
}

#define EXPORT(NAME, T)                                                                                                              \
    extern "C" void norm_##NAME(int64_t threads, int64_t rows, int64_t P, int64_t C, int64_t G, float eps, int silu, const T* x,     \
                                const float* shift, const float* weight, const float* bias, T* y, float* sums, float* scale,         \
                                float* offset, float* stats) {                                                                       \
        SHARED((C % 32 ? norm<T, 1> : norm<T, 2>)(first, last, P, C, G, eps, silu, x, shift, weight, bias, y, sums, scale, offset,   \
               stats));                                                                                                              \
    }                                                                                                                                \
    extern "C" void norm_back_##NAME(int64_t threads, int64_t rows, int64_t P, int64_t C, int64_t G, int silu, const T* x,           \
                                     const T* grad, const float* shift, const float* weight, const float* sums, const float* scale,  \
                                     const float* offset, const float* stats, T* dx, float* dshift, float* dweight, float* dbias) {  \
        SHARED((C % 32 ? norm_back<T, 1> : norm_back<T, 2>)(first, last, P, C, G, silu, x, grad, shift, weight, sums, scale,         \
               offset, stats, dx, dshift, dweight, dbias));                                                                          \
    }                                                                                                                                \
    extern "C" void exponential_##NAME(int64_t threads, int64_t rows, T* x) {                                                        \
        SHARED(exponential(first, last, x));                                                                                         \
    }                                                                                                                                \
    extern "C" void product_##NAME(int64_t threads, int64_t rows, T* x, const T* y) {                                                \
        SHARED(product(first, last, x, y));                                                                                          \
    }                                                                                                                                \
    extern "C" void heed_##NAME(int64_t threads, int64_t rows, int64_t places, int64_t seen, int64_t H, int64_t G, int64_t C,        \
                                float scale, int64_t near, const int64_t* apart, const T* q, const T* k, const T* v,                 \
                                const float* bias, T* y) {                                                                           \
        SHARED(heed(first, last, places, seen, H, G, C, scale, near, apart, q, k, v, bias, y));                                      \
    }                                                                                                                                \
    extern "C" void geglu_##NAME(int64_t threads, int64_t rows, int64_t D, const T* x, T* y) {                                       \
        SHARED(geglu(first, last, D, x, y));                                                                                         \
    }
EXPORT(float32, float)
EXPORT(bfloat16, half)
