// The newest places of a few sequences through every layer of a decoder, in one call, eight rows at most. What is small (norms,
// activations, the stream itself) every thread does for itself; the products and the heads are shared out.
#include "matrices.cpp"

struct Norm {
    const float *weight, *bias;
    float eps;
    int32_t kind;  // 0 none, 1 by the root of the mean square, 2 by mean and deviation
};
struct Layer {
    Matrix qkv, out, up, down;
    Norm before[2], after[2], total[2], q, k;  // of attention and of what feeds forward: of what goes in, comes out, and the sum
    const float *cos, *sin;                    // of the first new place, [T,turned]; none = nothing turns
    void *keys, *values;                       // [B,G,length,C]
    int64_t window;                            // newest places that are seen; 0 = all
};
struct Decoder {
    const Layer* layers;
    Matrix head;
    Norm last;
    int64_t depth, width, heads, groups, size, turned, hidden, act, gated, bits;  // bits: of what is remembered
    float scale, cap;
};
struct Step {
    const Decoder& d;
    int64_t batch, news, at, length;
    const float *bias, *from;  // [H,T,at+T] or none; [B,T,D]
    float* to;                 // [B,T,V]
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

// channel i turns with channel i + turned / 2
static void turn(int64_t turned, const float* cos, const float* sin, float* x) {
    for (int64_t i = 0; i < turned / 2; i++) {
        const float a = x[i], b = x[i + turned / 2];
        x[i] = a * cos[i] - b * sin[i], x[i + turned / 2] = b * cos[i] + a * sin[i];
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
static inline void mixed(const float* by, int64_t count, const T* v, int64_t C, float* y) {
    V sum[U] = {};
    for (int64_t s = 0; s < count; s++)
        for (int u = 0; u < U; u++) sum[u] = fused(sum[u], wide(by[s]), load(v + s * C + 16 * u));
    for (int u = 0; u < U; u++) store(y + 16 * u, sum[u]);
}
template <class T>
static void gather(const float* by, int64_t count, const T* v, int64_t C, float* y) {
    int64_t c = 0;
    for (; c + 64 <= C; c += 64) mixed<T, 4>(by, count, v + c, C, y + c);
    for (; c + 16 <= C; c += 16) mixed<T, 1>(by, count, v + c, C, y + c);
    for (; c < C; c++) {
        y[c] = 0;
        for (int64_t i = 0; i < count; i++) y[c] += by[i] * one(v + i * C + c);
    }
}

// The weights of `count` scores, in room for whole sixteens, and their sum.
static float soft(float* x, int64_t count) {
    float high = -INFINITY;
    for (int64_t i = 0; i < count; i++) high = x[i] > high ? x[i] : high;
    for (int64_t i = count; i % 16; i++) x[i] = -INFINITY;
    V all = {};
    for (int64_t i = 0; i < count; i += 16) {
        const V e = expo(load(x + i) - high);
        store(x + i, e), all += e;
    }
    return total(all);
}

// One head of one row: its new places see those remembered, themselves and one another, each but what is behind it.
template <class T>
static void hear(const Step& s, const Layer& layer, float* out, int64_t b, int64_t h, std::vector<float>& room) {
    const Decoder& d = s.d;
    const int64_t C = d.size, N = s.news, shared = d.heads / d.groups, g = h / shared;
    room.resize(3 * N * C + (s.at + N + 16));
    float *q = &room[0], *k = q + N * C, *v = k + N * C, *weight = v + N * C;
    T *keys = (T*)layer.keys + (b * d.groups + g) * s.length * C, *values = (T*)layer.values + (b * d.groups + g) * s.length * C;
    for (int64_t t = 0; t < N; t++) {
        const float* row = &s.qkv[(b * N + t) * (d.heads + 2 * d.groups) * C];
        std::memcpy(q + t * C, row + h * C, C * 4), std::memcpy(k + t * C, row + (d.heads + g) * C, C * 4);
        std::memcpy(v + t * C, row + (d.heads + d.groups + g) * C, C * 4);
        norm(layer.q, q + t * C, C), norm(layer.k, k + t * C, C);
        if (layer.cos)
            for (float* x : {q, k}) turn(d.turned, layer.cos + t * d.turned, layer.sin + t * d.turned, x + t * C);
        if (h % shared == 0)
            for (int64_t c = 0; c < C; c++) set(keys + (s.at + t) * C + c, k[t * C + c]), set(values + (s.at + t) * C + c, v[t * C + c]);
    }
    for (int64_t t = 0; t < N; t++) {
        const int64_t end = s.at + t + 1, first = layer.window && end > layer.window ? end - layer.window : 0;
        const int64_t old = first < s.at ? s.at - first : 0, since = first < s.at ? 0 : first - s.at, count = end - first;
        for (int64_t i = 0; i < old; i++) weight[i] = product(q + t * C, keys + (first + i) * C, C);
        for (int64_t i = old; i < count; i++) weight[i] = product(q + t * C, k + (since + i - old) * C, C);
        for (int64_t i = 0; i < count; i++) weight[i] *= d.scale;
        for (int64_t i = 0; d.cap && i < count; i++) weight[i] = d.cap * std::tanh(weight[i] / d.cap);
        for (int64_t i = 0; s.bias && i < count; i++) weight[i] += s.bias[(h * N + t) * (s.at + N) + first + i];
        const float by = 1 / soft(weight, count);
        float* y = out + ((b * N + t) * d.heads + h) * C;
        gather(weight, old, values + first * C, C, y);
        for (int64_t i = old; i < count; i++)
            for (int64_t c = 0; c < C; c++) y[c] += weight[i] * v[(since + i - old) * C + c];
        for (int64_t c = 0; c < C; c++) y[c] *= by;
    }
}

static void walk(Team& team, void* about, int64_t) {
    Step& s = *(Step*)about;
    const Decoder& d = s.d;
    const int64_t N = s.batch * s.news, D = d.width, wide = d.hidden * (d.gated ? 2 : 1);
    static thread_local Rows rows;
    static thread_local std::vector<float> h, x, fed, room;
    h.assign(s.from, s.from + N * D);
    std::atomic<int64_t>* next = &s.next[0];
    auto times = [&](const Matrix& m, const float* from, int64_t wide, float* to) {
        rows.take(m, N, from, wide);
        multiply(team, *next++, m, N, rows, to);
    };
    auto normed = [&](const Norm& n) {
        x = h;
        for (int64_t i = 0; i < N; i++) norm(n, &x[i * D], D);
        return x.data();
    };
    auto add = [&](const Norm& after, const Norm& total) {
        x = s.y;
        for (int64_t i = 0; i < N; i++) {
            norm(after, &x[i * D], D);
            for (int64_t c = i * D; c < i * D + D; c++) h[c] += x[c];
            norm(total, &h[i * D], D);
        }
    };
    for (int64_t l = 0; l < d.depth; l++) {
        const Layer& layer = d.layers[l];
        times(layer.qkv, normed(layer.before[0]), D, &s.qkv[0]);
        for (int64_t i; (i = next->fetch_add(1)) < s.batch * d.heads;)
            (d.bits == 32 ? hear<float> : hear<half>)(s, layer, &s.heard[0], i / d.heads, i % d.heads, room);
        next++;
        team.meet();
        times(layer.out, &s.heard[0], d.heads * d.size, &s.y[0]);
        add(layer.after[0], layer.total[0]);
        times(layer.up, normed(layer.before[1]), D, &s.up[0]);
        fed = s.up;
        for (int64_t i = 0; i < N; i++) {
            feed(d, &fed[i * wide]);
            std::memmove(&fed[i * d.hidden], &fed[i * wide], d.hidden * 4);
        }
        times(layer.down, &fed[0], d.hidden, &s.y[0]);
        add(layer.after[1], layer.total[1]);
    }
    times(d.head, normed(d.last), D, s.to);
}

extern "C" void step(const Decoder* d, int64_t threads, int64_t batch, int64_t news, int64_t at, int64_t length, const float* bias,
                     const float* from, float* to) {
    const int64_t N = batch * news, C = d->size;
    Step s{*d, batch, news, at, length, bias, from, to};
    s.qkv.resize(N * (d->heads + 2 * d->groups) * C), s.heard.resize(N * d->heads * C);
    s.up.resize(N * d->hidden * (d->gated ? 2 : 1)), s.y.resize(N * d->width);
    s.next = std::vector<std::atomic<int64_t>>(5 * d->depth + 1);
    together(threads, walk, &s);
}

struct Product {
    const Matrix& m;
    int64_t rows, wide;
    const float* x;
    float* y;
    std::atomic<int64_t> next{0};
};
extern "C" void multiply_rows(const Matrix* m, int64_t threads, int64_t rows, const float* x, int64_t wide, float* y) {
    Product about{*m, rows, wide, x, y};
    auto work = [](Team& team, void* about, int64_t) {
        Product& p = *(Product*)about;
        static thread_local Rows own;
        own.take(p.m, p.rows, p.x, p.wide);
        multiply(team, p.next, p.m, p.rows, own, p.y);
    };
    together(threads, work, &about);
}

// -- packing ----------------------------------------------------------------------------------------------------------------------

// which of 16 numbers lies nearest, and its place; `middles` are those between neighbours
static inline V nearest(V x, const float* table, const float* middles, I& place) {
    V number = wide(table[0]);
    place = I{};
    for (int k = 0; k < 15; k++) {
        const auto above = x > wide(middles[k]);
        number = above ? wide(table[k + 1]) : number;
        place -= (I)above;
    }
    return number;
}

// groups first .. last of G numbers, G in sixteens: the scale with the least squared error of those tried, and places in the table.
// The group's largest begins at either end of the table, times a factor; from there the scale goes to where it fits best.
static void look_up(int64_t first, int64_t last, int64_t G, const float* x, const float* table, const float* middles,
                    const float* factors, int64_t count, int8_t* places, half* scales) {
    for (int64_t row = first; row < last; row++) {
        const float* from = x + row * G;
        float largest = 0, least = INFINITY;
        for (int64_t i = 0; i < G; i++) largest = std::fabs(from[i]) > std::fabs(largest) ? from[i] : largest;
        for (int64_t n = 0; n < 2 * count; n++) {
            float scale = largest / table[n < count ? 0 : 15] * factors[n % count];
            V along = {}, square = {}, error = {};
            I place;
            for (int64_t i = 0; i < G; i += 16) {
                const V number = nearest(load(from + i) / (scale ? scale : 1), table, middles, place);
                along = fused(along, load(from + i), number), square = fused(square, number, number);
            }
            half kept;
            set(&kept, total(along) / total(square));
            scale = one(&kept);
            int8_t own[128];
            for (int64_t i = 0; i < G; i += 16) {
                const V rest = load(from + i) - scale * nearest(load(from + i) / (scale ? scale : 1), table, middles, place);
                error = fused(error, rest, rest);
                for (int j = 0; j < 16; j++) own[i + j] = place[j];
            }
            if (total(error) < least) {
                least = total(error), scales[row] = kept;
                std::memcpy(places + row * G, own, G);
            }
        }
    }
}

extern "C" void look_up_float32(int64_t threads, int64_t rows, int64_t G, const float* x, const float* table, const float* middles,
                                const float* factors, int64_t count, int8_t* places, half* scales) {
    SHARED(look_up(first, last, G, x, table, middles, factors, count, places, scales));
}

// blocks first .. last of a packed matrix as it stands for: to [in,out], transposed, so that sixteen outputs are neighbours
template <class T>
static void unpack(int64_t first, int64_t last, const Matrix& m, T* to) {
    W table = {};
    if (m.bits == 4) std::memcpy(&table, m.table, sizeof table);
    for (int64_t b = first; b < last; b++) {
        const char* from = (const char*)m.weight + b * m.in * 2 * m.bits;
        const int64_t each = m.bits == 8 ? 2 : 8;
        for (int64_t c = 0; c < m.in; c += each, from += 2 * m.bits * each) {
            const V scale = load(m.scales + (b * (m.in / m.group) + c / m.group) * 16);
            W words = {};
            if (m.bits == 4) std::memcpy(&words, from, sizeof words);
            for (int64_t k = 0; k < each / 2; k++) {
                const I both = (I)(m.bits == 8 ? widened((const int8_t*)from) : chosen(table, words >> (4 * k)));
                T* at = to + (c + 2 * k) * m.out + 16 * b;
                store(at, __builtin_convertvector(both << 16 >> 16, V) * scale);
                store(at + m.out, __builtin_convertvector(both >> 16, V) * scale);
            }
        }
    }
}
extern "C" void unpack_float32(int64_t threads, int64_t rows, const Matrix* m, float* to) {
    SHARED(unpack(first, last, *m, to));
}
extern "C" void unpack_bfloat16(int64_t threads, int64_t rows, const Matrix* m, half* to) {
    SHARED(unpack(first, last, *m, to));
}
