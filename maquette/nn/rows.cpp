// What a transformer does to each row by itself, and the way back. T is how numbers lie in memory. A row is C numbers in sixteens;
// rows are counted over three axes and lie `apart` numbers apart along each, results one after the other. Blocks first .. last of 64
// rows are done: what is summed over rows is summed by blocks, so that it does not depend on how many share the work.
#include <algorithm>
#include <vector>

#include "threads.cpp"
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
// 2021, eq. 15), or pairs: neighbours, by the angles of the first of them. Back: the gradient, given that of the result.
template <class T>
static void turn(int64_t first, int64_t last, Rows rows, int64_t C, int back, int pairs, const T* x, const float* cos, const float* sin,
                 T* y) {
    const int64_t D = C / 2;
    std::vector<float> in(C), out(C);
    for (int64_t n = first * BLOCK; n < std::min(last * BLOCK, rows.N); n++) {
        const T* from = x + rows(n);
        T* to = y + n * C;
        const float *cosine = cos + n % rows.K * C, *sine = sin + n % rows.K * C;
        if (pairs) {
            for (int64_t c = 0; c < C; c += 16) store(&in[c], load(from + c));
            for (int64_t c = 0; c < C; c += 2) {
                const float s = back ? -sine[c] : sine[c];
                out[c] = in[c] * cosine[c] - in[c + 1] * s;
                out[c + 1] = in[c + 1] * cosine[c] + in[c] * s;
            }
            for (int64_t c = 0; c < C; c += 16) store(to + c, load(&out[c]));
            continue;
        }
        for (int64_t c = 0; c < D; c += 16) {
            V l = load(from + c), r = load(from + D + c), one = load(sine + c), two = load(sine + D + c);
            store(to + c, l * load(cosine + c) + (back ? r * two : -r * one));
            store(to + D + c, r * load(cosine + D + c) + (back ? -l * one : l * two));
        }
    }
}

// x sigmoid(x) (SiLU), x sigmoid(2 u) where u = 0.79788 (x + 0.044715 x^3) (GELU by its tanh formula), x sigmoid(1.702 x) (CLIP's
// quick GELU); and their slopes, given x and the sigmoid
enum { SILU, BELL, QUICK };
template <int ACT> static inline V gate(V x) {
    return sigmoid(ACT == SILU ? x : ACT == BELL ? x * (1.595769122f + 0.071354816f * x * x) : 1.702f * x);
}
template <int ACT> static inline V slope(V x, V s) {
    return s * (1.f + x * (1.f - s) * (ACT == SILU ? wide(1.f) : ACT == BELL ? 1.595769122f + 0.214064448f * x * x : wide(1.702f)));
}

// act(x), [N,C] -> [N,C], or act(x) times the second half of the row, [N,2C] -> [N,C]
template <int ACT, class T>
static void act(int64_t first, int64_t last, int64_t N, int64_t C, int gated, const T* x, T* y) {
    for (int64_t n = first * BLOCK; n < std::min(last * BLOCK, N); n++)
        for (int64_t c = 0; c < C; c += 16) {
            const T* from = x + n * (gated ? 2 * C : C) + c;
            V v = load(from), h = v * gate<ACT>(v);
            store(y + n * C + c, gated ? h * load(from + C) : h);
        }
}

template <int ACT, class T>
static void act_back(int64_t first, int64_t last, int64_t N, int64_t C, int gated, const T* x, const T* grad, T* dx) {
    for (int64_t n = first * BLOCK; n < std::min(last * BLOCK, N); n++)
        for (int64_t c = 0; c < C; c += 16) {
            const int64_t at = n * (gated ? 2 * C : C) + c;
            V v = load(x + at), g = load(grad + n * C + c), s = gate<ACT>(v), d = g * slope<ACT>(v, s);
            store(dx + at, gated ? d * load(x + at + C) : d);
            if (gated) store(dx + at + C, g * v * s);
        }
}

// softmax(scale x) over the last axis of scores [B,H,T,S], N = B H T rows of S, where the mask lets each row of a batch and place see,
// bytes `apart` numbers apart from row to row of the batch and from place to place; a row that sees nothing gets no number
template <class T>
static void soften(int64_t first, int64_t last, int64_t N, int64_t H, int64_t L, int64_t S, float scale, const uint8_t* mask,
                   int64_t apart, int64_t step, const T* x, T* y) {
    const int64_t W = (S + 15) / 16 * 16;
    std::vector<float> row(W);
    const V by = wide(scale * 1.44269504f);
    for (int64_t n = first * BLOCK; n < std::min(last * BLOCK, N); n++) {
        const T* from = x + n * S;
        const uint8_t* seen = mask ? mask + n / (H * L) * apart + n % L * step : nullptr;
        int64_t c = 0;
        for (; c + 16 <= S; c += 16) store(&row[c], load(from + c));
        for (; c < S; c++) row[c] = one(from + c);
        std::fill(row.begin() + S, row.end(), -3e38f);
        for (c = 0; seen && c < S; c++) row[c] = seen[c] ? row[c] : -3e38f;
        V high = load(&row[0]), all = {};
        for (c = 16; c < W; c += 16) high = most(high, load(&row[c]));
        const float best = top(high);
        if (best <= -3e38f) {
            for (c = 0; c < S; c++) set(y + n * S + c, NAN);
            continue;
        }
        for (c = 0; c < W; c += 16) {
            V v = load(&row[c]), e = two(most((v - best) * by, wide(-126.f)));
            e = v <= -3e38f ? V{} : e;
            all += e;
            store(&row[c], e);
        }
        const float share = 1 / total(all);
        for (c = 0; c + 16 <= S; c += 16) store(y + n * S + c, load(&row[c]) * share);
        for (; c < S; c++) set(y + n * S + c, row[c] * share);
    }
}

template <class T>
static void soften_back(int64_t first, int64_t last, int64_t N, int64_t S, float scale, const T* y, const T* grad, T* dx) {
    for (int64_t n = first * BLOCK; n < std::min(last * BLOCK, N); n++) {
        const T *of = y + n * S, *up = grad + n * S;
        V sum = {};
        float rest = 0;
        int64_t c = 0;
        for (; c + 16 <= S; c += 16) sum += load(of + c) * load(up + c);
        for (; c < S; c++) rest += one(of + c) * one(up + c);
        const float mean = total(sum) + rest;
        for (c = 0; c + 16 <= S; c += 16) store(dx + n * S + c, (load(up + c) - mean) * load(of + c) * scale);
        for (; c < S; c++) set(dx + n * S + c, (one(up + c) - mean) * one(of + c) * scale);
    }
}

#define EXPORT(NAME, T)                                                                                                              \
    extern "C" void rms_##NAME(int64_t threads, int64_t rows, int64_t N, int64_t J, int64_t K, int64_t a, int64_t b, int64_t c,      \
                               int64_t C, float eps, const T* x, const float* gain, T* y, float* kept) {                             \
        SHARED(rms(first, last, {N, J, K, a, b, c}, C, eps, x, gain, y, kept));                                                      \
    }                                                                                                                                \
    extern "C" void rms_back_##NAME(int64_t threads, int64_t rows, int64_t N, int64_t J, int64_t K, int64_t a, int64_t b, int64_t c, \
                                    int64_t C, const T* x, const float* gain, const float* kept, const T* grad, T* dx,               \
                                    float* dgain) {                                                                                  \
        SHARED(rms_back(first, last, {N, J, K, a, b, c}, C, x, gain, kept, grad, dx, dgain));                                        \
    }                                                                                                                                \
    extern "C" void turn_##NAME(int64_t threads, int64_t rows, int64_t N, int64_t J, int64_t K, int64_t a, int64_t b, int64_t c,     \
                                int64_t C, int back, int pairs, const T* x, const float* cos, const float* sin, T* y) {              \
        SHARED(turn(first, last, {N, J, K, a, b, c}, C, back, pairs, x, cos, sin, y));                                               \
    }                                                                                                                                \
    extern "C" void soften_##NAME(int64_t threads, int64_t rows, int64_t N, int64_t H, int64_t L, int64_t S, float scale,            \
                                  const uint8_t* mask, int64_t apart, int64_t step, const T* x, T* y) {                              \
        SHARED(soften(first, last, N, H, L, S, scale, mask, apart, step, x, y));                                                     \
    }                                                                                                                                \
    extern "C" void soften_back_##NAME(int64_t threads, int64_t rows, int64_t N, int64_t S, float scale, const T* y, const T* grad,  \
                                       T* dx) {                                                                                      \
        SHARED(soften_back(first, last, N, S, scale, y, grad, dx));                                                                  \
    }                                                                                                                                \
    extern "C" void act_##NAME(int64_t threads, int64_t rows, int64_t N, int64_t C, int kind, int gated, const T* x, T* y) {         \
        SHARED((kind == SILU ? act<SILU, T> : kind == BELL ? act<BELL, T> : act<QUICK, T>)(first, last, N, C, gated, x, y));         \
    }                                                                                                                                \
    extern "C" void act_back_##NAME(int64_t threads, int64_t rows, int64_t N, int64_t C, int kind, int gated, const T* x,            \
                                    const T* grad, T* dx) {                                                                          \
        SHARED((kind == SILU ? act_back<SILU, T> : kind == BELL ? act_back<BELL, T> : act_back<QUICK, T>)(first, last, N, C,         \
               gated, x, grad, dx));                                                                                                 \
    }
EXPORT(float32, float)
EXPORT(bfloat16, half)

// Layer norm, then scaled by 1 + scale and shifted, both [B,D] (Peebles 2023, sec. 3.2): x [B,N,D] -> y [B,N,D], of batch rows first ..
// last; stats [B,N,2]: mean and 1 / deviation
template <class T, class O>
static void steer(int64_t first, int64_t last, int64_t N, int64_t D, float eps, const T* x, const float* shift, const float* scale, O* y,
                  float* stats) {
    for (int64_t n = first * N; n < last * N; n++) {
        const T* from = x + n * D;
        const float *up = shift + n / N * D, *by = scale + n / N * D;
        V sum = {}, square = {};
        for (int64_t c = 0; c < D; c += 16) sum += load(from + c);
        const float mean = total(sum) / D;
        for (int64_t c = 0; c < D; c += 16) {
            V v = load(from + c) - mean;
            square += v * v;
        }
        const float r = 1 / std::sqrt(total(square) / D + eps);
        if (stats) stats[2 * n] = mean, stats[2 * n + 1] = r;
        for (int64_t c = 0; c < D; c += 16) store(y + n * D + c, (load(from + c) - mean) * r * (1.f + load(by + c)) + load(up + c));
    }
}

// the gradients of x, and of shift and scale [B,D]
template <class T, class O>
static void steer_back(int64_t first, int64_t last, int64_t N, int64_t D, const T* x, const float* scale, const float* stats,
                       const O* grad, T* dx, float* dshift, float* dscale) {
    for (int64_t b = first; b < last; b++) {
        float *up = dshift + b * D, *by = dscale + b * D;
        std::fill(up, up + D, 0.f), std::fill(by, by + D, 0.f);
        for (int64_t n = b * N; n < (b + 1) * N; n++) {
            const float mean = stats[2 * n], r = stats[2 * n + 1];
            V all = {}, along = {};
            for (int64_t c = 0; c < D; c += 16) {
                V g = load(grad + n * D + c), v = (load(x + n * D + c) - mean) * r;
                store(up + c, load(up + c) + g);
                store(by + c, load(by + c) + g * v);
                g *= 1.f + load(scale + b * D + c);
                all += g;
                along += g * v;
            }
            const float flat = total(all) / D, tilt = total(along) / D;
            for (int64_t c = 0; c < D; c += 16) {
                V g = load(grad + n * D + c) * (1.f + load(scale + b * D + c)), v = (load(x + n * D + c) - mean) * r;
                store(dx + n * D + c, (g - flat - v * tilt) * r);
            }
        }
    }
}

// x + gate h, [B,N,D] and the gate [B,D]: y like x; and the way back
template <class T, class O>
static void add_gated(int64_t first, int64_t last, int64_t N, int64_t D, const T* x, const float* gate, const O* h, T* y) {
    for (int64_t n = first * N; n < last * N; n++)
        for (int64_t c = 0; c < D; c += 16)
            store(y + n * D + c, load(x + n * D + c) + load(gate + n / N * D + c) * load(h + n * D + c));
}
template <class T, class O>
static void add_gated_back(int64_t first, int64_t last, int64_t N, int64_t D, const float* gate, const O* h, const T* grad, O* dh,
                           float* dgate) {
    for (int64_t b = first; b < last; b++) {
        float* sum = dgate + b * D;
        std::fill(sum, sum + D, 0.f);
        for (int64_t n = b * N; n < (b + 1) * N; n++)
            for (int64_t c = 0; c < D; c += 16) {
                V g = load(grad + n * D + c);
                store(sum + c, load(sum + c) + g * load(h + n * D + c));
                store(dh + n * D + c, g * load(gate + b * D + c));
            }
    }
}

#define STEER(NAME, T, O)                                                                                                            \
    extern "C" void steer_##NAME(int64_t threads, int64_t rows, int64_t N, int64_t D, float eps, const T* x, const float* shift,     \
                                 const float* scale, O* y, float* stats) {                                                           \
        SHARED(steer(first, last, N, D, eps, x, shift, scale, y, stats));                                                            \
    }                                                                                                                                \
    extern "C" void steer_back_##NAME(int64_t threads, int64_t rows, int64_t N, int64_t D, const T* x, const float* scale,           \
                                      const float* stats, const O* grad, T* dx, float* dshift, float* dscale) {                      \
        SHARED(steer_back(first, last, N, D, x, scale, stats, grad, dx, dshift, dscale));                                            \
    }                                                                                                                                \
    extern "C" void add_gated_##NAME(int64_t threads, int64_t rows, int64_t N, int64_t D, const T* x, const float* gate, const O* h, \
                                     T* y) {                                                                                         \
        SHARED(add_gated(first, last, N, D, x, gate, h, y));                                                                         \
    }                                                                                                                                \
    extern "C" void add_gated_back_##NAME(int64_t threads, int64_t rows, int64_t N, int64_t D, const float* gate, const O* h,        \
                                          const T* grad, O* dh, float* dgate) {                                                      \
        SHARED(add_gated_back(first, last, N, D, gate, h, grad, dh, dgate));                                                         \
    }
STEER(float32, float, float)
STEER(bfloat16, half, half)
STEER(mixed_float32, float, half)
