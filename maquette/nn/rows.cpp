// What a transformer does to each row by itself, and the way back. T is how numbers lie in memory. A row is C numbers in sixteens;
// rows are counted over three axes and lie `apart` numbers apart along each, results one after the other. Blocks first .. last of 64
// rows are done: what is summed over rows is summed by blocks, so that it does not depend on how many share the work.
#include <algorithm>

#include "vectors.cpp"

static const int64_t BLOCK = 64;

struct Rows {  // N rows, the two inner axes' sizes, how far apart along each of the three
    int64_t N, J, K, a, b, c;
    int64_t operator()(int64_t n) const { return n / (J * K) * a + n / K % J * b + n % K * c; }
};

// x / rms(x) * gain; gain [C] or none; kept: 1 / rms of each row, or none (Zhang & Sennrich 2019, eq. 4)
template <class T>
static void rms(int64_t first, int64_t last, Rows rows, int64_t C, float eps, const T* x, const float* gain, T* y, float* kept) {
    for (int64_t n = first * BLOCK; n < std::min(last * BLOCK, rows.N); n++) {
        const T* from = x + rows(n);
        V sum = {};
        for (int64_t c = 0; c < C; c += 16) {
            V v = load(from + c);
            sum += v * v;
        }
        const float r = 1 / std::sqrt(total(sum) / C + eps);
        if (kept) kept[n] = r;
        for (int64_t c = 0; c < C; c += 16) {
            V v = load(from + c) * r;
            store(y + n * C + c, gain ? v * load(gain + c) : v);
        }
    }
}

// the gradients of x [N,C], and of the gain [blocks,C], or none
template <class T>
static void rms_back(int64_t first, int64_t last, Rows rows, int64_t C, const T* x, const float* gain, const float* kept, const T* grad,
                     T* dx, float* dgain) {
    for (int64_t block = first; block < last; block++) {
        float* sums = dgain ? dgain + block * C : nullptr;
        if (sums) std::fill(sums, sums + C, 0.f);
        for (int64_t n = block * BLOCK; n < std::min((block + 1) * BLOCK, rows.N); n++) {
            const T *from = x + rows(n), *up = grad + n * C;
            const float r = kept[n];
            V along = {};
            for (int64_t c = 0; c < C; c += 16) {
                V g = load(up + c), v = load(from + c);
                if (sums) store(sums + c, load(sums + c) + g * v * r);
                along += (gain ? g * load(gain + c) : g) * v;
            }
            const float tilt = r * r * r * total(along) / C;
            for (int64_t c = 0; c < C; c += 16) {
                V g = load(up + c);
                store(dx + n * C + c, (gain ? g * load(gain + c) : g) * r - load(from + c) * tilt);
            }
        }
    }
}

// Each row turned by the angles of its place, which the innermost axis counts: cos, sin [K,C]; channel i with channel i + C/2 (Su
// 2021, eq. 15). Back: the gradient, given that of the result.
template <class T>
static void turn(int64_t first, int64_t last, Rows rows, int64_t C, int back, const T* x, const float* cos, const float* sin, T* y) {
    const int64_t D = C / 2;
    for (int64_t n = first * BLOCK; n < std::min(last * BLOCK, rows.N); n++) {
        const T* from = x + rows(n);
        T* to = y + n * C;
        const float *cosine = cos + n % rows.K * C, *sine = sin + n % rows.K * C;
        for (int64_t c = 0; c < D; c += 16) {
            V l = load(from + c), r = load(from + D + c), one = load(sine + c), two = load(sine + D + c);
            store(to + c, l * load(cosine + c) + (back ? r * two : -r * one));
            store(to + D + c, r * load(cosine + D + c) + (back ? -l * one : l * two));
        }
    }
}

// SiLU x sigmoid(x), or GELU by its tanh formula, x sigmoid(2 u) where u = 0.79788 (x + 0.044715 x^3); and its slope, given x and
// the sigmoid
template <bool BELL> static inline V gate(V x) { return sigmoid(BELL ? x * (1.595769122f + 0.071354816f * x * x) : x); }
template <bool BELL> static inline V slope(V x, V s) {
    return s * (1.f + x * (1.f - s) * (BELL ? 1.595769122f + 0.214064448f * x * x : wide(1.f)));
}

// act(x), [N,C] -> [N,C], or act(x) times the second half of the row, [N,2C] -> [N,C]
template <bool BELL, class T>
static void act(int64_t first, int64_t last, int64_t N, int64_t C, int gated, const T* x, T* y) {
    for (int64_t n = first * BLOCK; n < std::min(last * BLOCK, N); n++)
        for (int64_t c = 0; c < C; c += 16) {
            const T* from = x + n * (gated ? 2 * C : C) + c;
            V v = load(from), h = v * gate<BELL>(v);
            store(y + n * C + c, gated ? h * load(from + C) : h);
        }
}

template <bool BELL, class T>
static void act_back(int64_t first, int64_t last, int64_t N, int64_t C, int gated, const T* x, const T* grad, T* dx) {
    for (int64_t n = first * BLOCK; n < std::min(last * BLOCK, N); n++)
        for (int64_t c = 0; c < C; c += 16) {
            const int64_t at = n * (gated ? 2 * C : C) + c;
            V v = load(x + at), g = load(grad + n * C + c), s = gate<BELL>(v), d = g * slope<BELL>(v, s);
            store(dx + at, gated ? d * load(x + at + C) : d);
            if (gated) store(dx + at + C, g * v * s);
        }
}

#define EXPORT(NAME, T)                                                                                                              \
    extern "C" void rms_##NAME(int64_t first, int64_t last, int64_t N, int64_t J, int64_t K, int64_t a, int64_t b, int64_t c,         \
                               int64_t C, float eps, const T* x, const float* gain, T* y, float* kept) {                             \
        rms(first, last, {N, J, K, a, b, c}, C, eps, x, gain, y, kept);                                                              \
    }                                                                                                                                \
    extern "C" void rms_back_##NAME(int64_t first, int64_t last, int64_t N, int64_t J, int64_t K, int64_t a, int64_t b, int64_t c,    \
                                    int64_t C, const T* x, const float* gain, const float* kept, const T* grad, T* dx,               \
                                    float* dgain) {                                                                                  \
        rms_back(first, last, {N, J, K, a, b, c}, C, x, gain, kept, grad, dx, dgain);                                                \
    }                                                                                                                                \
    extern "C" void turn_##NAME(int64_t first, int64_t last, int64_t N, int64_t J, int64_t K, int64_t a, int64_t b, int64_t c,        \
                                int64_t C, int back, const T* x, const float* cos, const float* sin, T* y) {                         \
        turn(first, last, {N, J, K, a, b, c}, C, back, x, cos, sin, y);                                                              \
    }                                                                                                                                \
    extern "C" void act_##NAME(int64_t first, int64_t last, int64_t N, int64_t C, int bell, int gated, const T* x, T* y) {            \
        (bell ? act<true, T> : act<false, T>)(first, last, N, C, gated, x, y);                                                       \
    }                                                                                                                                \
    extern "C" void act_back_##NAME(int64_t first, int64_t last, int64_t N, int64_t C, int bell, int gated, const T* x,               \
                                    const T* grad, T* dx) {                                                                          \
        (bell ? act_back<true, T> : act_back<false, T>)(first, last, N, C, gated, x, grad, dx);                                      \
    }
EXPORT(float32, float)
EXPORT(bfloat16, half)
