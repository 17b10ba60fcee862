// Group normalisation and SiLU in one, and attention of small heads, for a CPU. Sixteen numbers at a time; the compiler maps them
// to the machine's own vectors. Arithmetic is float32 throughout; T is how numbers lie in memory. Rows first .. last of a batch.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

typedef float V __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint16_t H __attribute__((vector_size(32)));
typedef uint16_t half;  // a bfloat16: the upper half of a float

static inline V wide(float x) { return x - V{}; }
static inline V load(const float* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
static inline V load(const half* p) { H h; std::memcpy(&h, p, sizeof h); return (V)(__builtin_convertvector(h, I) << 16); }
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
static inline V least(V a, V b) { return a < b ? a : b; }
static inline V most(V a, V b) { return a > b ? a : b; }

// e^x to 2e-7: 2^n times a polynomial of the rest (Cephes, exp2f)
static inline V expo(V x) {
    V y = least(most(x, wide(-87.f)), wide(88.f)) * 1.44269504f, up = y + 12582912.f, f = y - (up - 12582912.f);
    V p = f * 1.535336188319500e-4f + 1.339887440266574e-3f;
    p = p * f + 9.618437357674640e-3f;
    p = p * f + 5.550332471162809e-2f;
    p = p * f + 2.402264791363012e-1f;
    p = p * f + 6.931472028550421e-1f;
    p = p * f + 1.f;
    return (V)((I)p + ((I)up << 23));
}
static inline V sigmoid(V y) { return 1.f / (1.f + expo(-y)); }

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

// GELU by its tanh formula, x sigmoid(2 u), u = 0.79788 (x + 0.044715 x^3), and the gradient of x, in sixteens first .. last
static inline V bell(V x) { return sigmoid(x * (1.595769122f + 0.071354816f * x * x)); }
template <class T>
static void gelu(int64_t first, int64_t last, const T* x, T* y) {
    for (int64_t i = 16 * first; i < 16 * last; i += 16) {
        V v = load(x + i);
        store(y + i, v * bell(v));
    }
}
template <class T>
static void gelu_back(int64_t first, int64_t last, const T* x, const T* grad, T* dx) {
    for (int64_t i = 16 * first; i < 16 * last; i += 16) {
        V v = load(x + i), s = bell(v);
        store(dx + i, load(grad + i) * s * (1.f + v * (1.f - s) * (1.595769122f + 0.214064448f * v * v)));
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

#define EXPORT(NAME, T)                                                                                                              \
    extern "C" void norm_##NAME(int64_t first, int64_t last, int64_t P, int64_t C, int64_t G, float eps, int silu, const T* x,        \
                                const float* shift, const float* weight, const float* bias, T* y, float* sums, float* scale,          \
                                float* offset, float* stats) {                                                                       \
        (C % 32 ? norm<T, 1> : norm<T, 2>)(first, last, P, C, G, eps, silu, x, shift, weight, bias, y, sums, scale, offset, stats);   \
    }                                                                                                                                \
    extern "C" void norm_back_##NAME(int64_t first, int64_t last, int64_t P, int64_t C, int64_t G, int silu, const T* x,              \
                                     const T* grad, const float* shift, const float* weight, const float* sums, const float* scale,   \
                                     const float* offset, const float* stats, T* dx, float* dshift, float* dweight, float* dbias) {   \
        (C % 32 ? norm_back<T, 1> : norm_back<T, 2>)(first, last, P, C, G, silu, x, grad, shift, weight, sums, scale, offset, stats,  \
                                                     dx, dshift, dweight, dbias);                                                    \
    }                                                                                                                                \
    extern "C" void gelu_##NAME(int64_t first, int64_t last, const T* x, T* y) { gelu(first, last, x, y); }                           \
    extern "C" void gelu_back_##NAME(int64_t first, int64_t last, const T* x, const T* grad, T* dx) {                                 \
        gelu_back(first, last, x, grad, dx);                                                                                         \
    }                                                                                                                                \
    extern "C" void exponential_##NAME(int64_t first, int64_t last, T* x) { exponential(first, last, x); }                            \
    extern "C" void product_##NAME(int64_t first, int64_t last, T* x, const T* y) { product(first, last, x, y); }
EXPORT(float32, float)
EXPORT(bfloat16, half)
