// The newest place of at most eight sequences through every layer of a decoder, in one call. What is small (norms, activations, the
// stream itself) every thread does for itself; the products and the heads are shared out.
#include "matrices.cpp"

struct Norm {
    const float *weight, *bias;
    float eps;
    int32_t kind;  // 0 none, 1 by the root of the mean square, 2 by mean and deviation
};
struct Layer {
    Matrix qkv, out, up, down;
    Norm before[2], after[2], q, k;  // before and after attention and what feeds forward
    void *keys, *values;             // [B,G,length,C]
    int64_t window;                  // newest places that are seen; 0 = all
};
struct Decoder {
    const Layer* layers;
    Matrix head;
    Norm last;
    int64_t depth, width, heads, groups, size, turned, neighbours, hidden, act, gated, beside, bits;
    float scale, cap;
};
struct Step {
    const Decoder& d;
    Crew& crew;
    int64_t rows, at, length;
    const float *cos, *sin, *from;
    float* to;
    std::vector<float> qkv, heard, up, y;
    std::vector<std::atomic<int64_t>> next;
};

static void norm(const Norm& n, float* x, int64_t wide) {
    if (!n.kind) return;
    const int64_t whole = wide / 16 * 16;
    float mean = 0, square = 0;
    V sum = {};
    if (n.kind == 2) {
        for (int64_t c = 0; c < whole; c += 16) sum += load(x + c);
        mean = total(sum);
        for (int64_t c = whole; c < wide; c++) mean += x[c];
        mean /= wide;
    }
    sum = V{};
    for (int64_t c = 0; c < whole; c += 16) sum = fused(sum, load(x + c) - mean, load(x + c) - mean);
    square = total(sum);
    for (int64_t c = whole; c < wide; c++) square += (x[c] - mean) * (x[c] - mean);
    const float by = 1 / std::sqrt(square / wide + n.eps);
    for (int64_t c = 0; c < wide; c++) x[c] = (x[c] - mean) * by * (n.weight ? n.weight[c] : 1) + (n.bias ? n.bias[c] : 0);
}

// 0 SiLU, 1 GELU by its tanh formula, 2 GELU, 3 the positive part, 4 its square
static inline V acted(int64_t act, V x) {
    if (act == 0) return x * sigmoid(x);
    if (act == 1) return x * sigmoid(x * (1.595769122f + 0.071354816f * x * x));
    if (act == 2) {
        for (int i = 0; i < 16; i++) x[i] *= 0.5f * std::erfc(-0.70710678f * x[i]);
        return x;
    }
    x = most(x, V{});
    return act == 3 ? x : x * x;
}

// [hidden], from its gate and then what it gates where there is one
static void feed(const Decoder& d, float* x) {
    for (int64_t c = 0; c < d.hidden; c += 16) {
        float pad[2][16] = {};
        const int64_t some = (d.hidden - c < 16 ? d.hidden - c : 16) * 4;
        std::memcpy(pad[0], x + c, some);
        if (d.gated) std::memcpy(pad[1], x + d.hidden + c, some);
        V v = acted(d.act, load(pad[0]));
        store(pad[0], d.gated ? v * load(pad[1]) : v);
        std::memcpy(x + c, pad[0], some);
    }
}

// channel i turns with channel i + turned / 2, or with its neighbour
static void turn(const Decoder& d, const float* cos, const float* sin, float* x) {
    const int64_t half = d.turned / 2, apart = d.neighbours ? 1 : half, by = d.neighbours ? 2 : 1;
    for (int64_t i = 0; i < half; i++) {
        float &a = x[i * by], &b = x[i * by + apart];
        const float left = a * cos[i] - b * sin[i], right = b * cos[i] + a * sin[i];
        a = left, b = right;
    }
}

template <class T>
static inline float product(const float* q, const T* k, int64_t C) {
    V sum = {};
    int64_t c = 0;
    for (; c + 16 <= C; c += 16) sum = fused(sum, load(q + c), load(k + c));
    float all = total(sum);
    for (; c < C; c++) all += q[c] * one(k + c);
    return all;
}
template <class T, int U>
static inline void gather(const float* by, int64_t count, const T* v, int64_t C, float* y) {
    V sum[U] = {};
    for (int64_t s = 0; s < count; s++)
        for (int u = 0; u < U; u++) sum[u] = fused(sum[u], wide(by[s]), load(v + s * C + 16 * u));
    for (int u = 0; u < U; u++) store(y + 16 * u, sum[u]);
}

// one head of one row, which sees the places behind it and its own
template <class T>
static void hear(Step& s, const Layer& layer, int64_t b, int64_t h, std::vector<float>& room) {
    const Decoder& d = s.d;
    const int64_t C = d.size, g = h / (d.heads / d.groups), first = layer.window && s.at >= layer.window ? s.at + 1 - layer.window : 0;
    const int64_t seen = s.at - first, padded = (seen + 1 + 15) / 16 * 16;
    float* row = &s.qkv[b * (d.heads + 2 * d.groups) * C];
    room.resize(padded + 3 * C);
    float *weight = &room[0], *q = weight + padded, *k = q + C, *v = k + C, *y = &s.heard[(b * d.heads + h) * C];
    std::memcpy(q, row + h * C, C * 4), std::memcpy(k, row + (d.heads + g) * C, C * 4);
    std::memcpy(v, row + (d.heads + d.groups + g) * C, C * 4);
    norm(layer.q, q, C), norm(layer.k, k, C);
    if (d.turned) turn(d, s.cos, s.sin, q), turn(d, s.cos, s.sin, k);
    T *keys = (T*)layer.keys + (b * d.groups + g) * s.length * C, *values = (T*)layer.values + (b * d.groups + g) * s.length * C;
    if (h % (d.heads / d.groups) == 0)
        for (int64_t c = 0; c < C; c++) set(keys + s.at * C + c, k[c]), set(values + s.at * C + c, v[c]);
    keys += first * C, values += first * C;
    for (int64_t i = 0; i < seen; i++) weight[i] = product(q, keys + i * C, C);
    weight[seen] = product(q, k, C);
    float high = -INFINITY, sum = 0;
    for (int64_t i = 0; i <= seen; i++) {
        weight[i] *= d.scale;
        if (d.cap) weight[i] = d.cap * std::tanh(weight[i] / d.cap);
        high = weight[i] > high ? weight[i] : high;
    }
    for (int64_t i = seen + 1; i < padded; i++) weight[i] = -INFINITY;
    V all = {};
    for (int64_t i = 0; i < padded; i += 16) {
        V e = expo(load(weight + i) - high);
        store(weight + i, e), all += e;
    }
    sum = total(all);
    int64_t c = 0;
    for (; c + 64 <= C; c += 64) gather<T, 4>(weight, seen, values + c, C, y + c);
    for (; c + 16 <= C; c += 16) gather<T, 1>(weight, seen, values + c, C, y + c);
    for (; c < C; c++) {
        y[c] = 0;
        for (int64_t i = 0; i < seen; i++) y[c] += weight[i] * one(values + i * C + c);
    }
    for (c = 0; c < C; c++) y[c] = (y[c] + weight[seen] * v[c]) / sum;
}

static void walk(void* about, int64_t) {
    Step& s = *(Step*)about;
    const Decoder& d = s.d;
    const int64_t N = s.rows, D = d.width;
    static thread_local Rows rows;
    static thread_local std::vector<float> h, x, room;
    h.assign(s.from, s.from + N * D);
    std::atomic<int64_t>* next = &s.next[0];
    auto times = [&](const Matrix& m, const float* from, int64_t wide, float* to) {
        rows.take(m, N, from, wide);
        multiply(s.crew, *next++, m, N, rows, to);
    };
    auto normed = [&](const Norm& n) {
        x = h;
        for (int64_t i = 0; i < N; i++) norm(n, &x[i * D], D);
        return x.data();
    };
    auto add = [&](const Norm& n, const float* y) {
        x.assign(y, y + N * D);
        for (int64_t i = 0; i < N; i++) norm(n, &x[i * D], D);
        for (int64_t i = 0; i < N * D; i++) h[i] += x[i];
    };
    for (int64_t l = 0; l < d.depth; l++) {
        const Layer& layer = d.layers[l];
        const int64_t wide = d.hidden * (d.gated ? 2 : 1);
        times(layer.qkv, normed(layer.before[0]), D, &s.qkv[0]);
        for (int64_t i, count = N * d.heads; (i = next->fetch_add(1)) < count;)
            (d.bits == 32 ? hear<float> : hear<half>)(s, layer, i / d.heads, i % d.heads, room);
        next++;
        s.crew.meet();
        if (d.beside) times(layer.up, normed(layer.before[1]), D, &s.up[0]);
        times(layer.out, &s.heard[0], d.heads * d.size, &s.y[0]);
        add(layer.after[0], &s.y[0]);
        if (!d.beside) times(layer.up, normed(layer.before[1]), D, &s.up[0]);
        x.resize(N * d.hidden);
        std::vector<float>& fed = room;
        fed.assign(s.up.begin(), s.up.end());
        for (int64_t i = 0; i < N; i++) {
            feed(d, &fed[i * wide]);
            std::memcpy(&x[i * d.hidden], &fed[i * wide], d.hidden * 4);
        }
        if (d.beside) s.crew.meet();
        times(layer.down, &x[0], d.hidden, &s.y[0]);
        add(layer.after[1], &s.y[0]);
    }
    times(d.head, normed(d.last), D, s.to);
}

extern "C" void step(const Decoder* d, int64_t threads, int64_t rows, int64_t at, int64_t length, const float* cos, const float* sin,
                     const float* from, float* to) {
    std::lock_guard<std::mutex> lock(calling);
    const int64_t C = d->size;
    Step s{*d, *crew(), rows, at, length, cos, sin, from, to};
    s.qkv.resize(rows * (d->heads + 2 * d->groups) * C), s.heard.resize(rows * d->heads * C);
    s.up.resize(rows * d->hidden * (d->gated ? 2 : 1)), s.y.resize(rows * d->width);
    s.next = std::vector<std::atomic<int64_t>>(5 * d->depth + 1);
    s.crew.all(threads, walk, &s);
}

struct Product {
    const Matrix& m;
    int64_t rows, wide;
    const float* x;
    float* y;
    std::atomic<int64_t> next{0};
};
extern "C" void multiply_rows(const Matrix* m, int64_t threads, int64_t rows, const float* x, int64_t wide, float* y) {
    std::lock_guard<std::mutex> lock(calling);
    Product about{*m, rows, wide, x, y};
    auto work = [](void* about, int64_t) {
        Product& p = *(Product*)about;
        static thread_local Rows own;
        own.take(p.m, p.rows, p.x, p.wide);
        multiply(*crew(), p.next, p.m, p.rows, own, p.y);
    };
    crew()->all(threads, work, &about);
}
