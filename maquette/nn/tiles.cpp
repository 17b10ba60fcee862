// Products of bfloat16 by the matrix unit of some processors: tiles of sixteen rows of 64 bytes, of which a product takes a tile's
// rows of 32 numbers times sixteen pairs of rows of another. Where there is none, nothing is done and said so. To be included.
#pragma once
#include <cstdint>
#ifdef __AMX_BF16__
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

// What a tile is loaded from has been stored by now: GCC's intrinsics do not say that they read.
static inline void settle(const void* about) { __asm__ volatile("" ::"r"(about) : "memory"); }

// This thread's tiles while one of these lives; `ready`: the kernel lets them be used.
struct Tiles {
    struct __attribute__((packed)) {
        uint8_t palette = 1, start = 0, none[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } all;
    Tiles() {
        settle(&all);
        if (ready()) _tile_loadconfig(&all);
    }
    ~Tiles() {
        if (ready()) _tile_release();
    }
    static bool ready() {
        static const bool may = !syscall(SYS_arch_prctl, 0x1023, 18);  // ARCH_REQ_XCOMP_PERM, XTILEDATA
        return may;
    }
};

// `score` and `mix` of sixteen queries (native.cpp), D and count in sixteens
static bool tiles_score(int64_t first, int64_t last, int64_t D, int64_t S, const uint32_t* asked, const uint32_t* keys,
                        const float* off, float* scores) {
    if (!Tiles::ready()) return false;
    settle(asked);
    for (int64_t s = first; s < last; s += 32) {
        _tile_loadd(0, off + s, 0); _tile_loadd(1, off + s + 16, 0);
        for (int64_t c = 0; c < D; c += 16) {
            _tile_loadd(2, asked + c, 4 * D);
            _tile_loadd(3, keys + s * D + 16 * c, 64); _tile_loadd(4, keys + (s + 16) * D + 16 * c, 64);
            _tile_dpbf16ps(0, 2, 3); _tile_dpbf16ps(1, 2, 4);
        }
        _tile_stored(0, scores + s, 4 * S); _tile_stored(1, scores + s + 16, 4 * S);
    }
    return true;
}
static bool tiles_mix(int64_t count, const uint32_t* by, int64_t step, const uint32_t* from, int64_t wide, float* to) {
    if (!Tiles::ready()) return false;
    settle(by);
    int64_t c = 0;
    for (; c + 64 <= wide; c += 64) {
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
        for (int64_t i = 0; i < count; i += 16) {
            const uint32_t* row = from + i * wide + c;
            _tile_loadd(4, by + i, 4 * step);
            _tile_loadd(5, row, 4 * wide); _tile_loadd(6, row + 16, 4 * wide);
            _tile_dpbf16ps(0, 4, 5); _tile_dpbf16ps(1, 4, 6);
            _tile_loadd(5, row + 32, 4 * wide); _tile_loadd(6, row + 48, 4 * wide);
            _tile_dpbf16ps(2, 4, 5); _tile_dpbf16ps(3, 4, 6);
        }
        _tile_stored(0, to + c, 4 * wide); _tile_stored(1, to + c + 16, 4 * wide);
        _tile_stored(2, to + c + 32, 4 * wide); _tile_stored(3, to + c + 48, 4 * wide);
    }
    for (; c < wide; c += 16) {
        _tile_zero(0);
        for (int64_t i = 0; i < count; i += 16) {
            _tile_loadd(4, by + i, 4 * step); _tile_loadd(5, from + i * wide + c, 4 * wide);
            _tile_dpbf16ps(0, 4, 5);
        }
        _tile_stored(0, to + c, 4 * wide);
    }
    return true;
}
#else
struct Tiles {};
#endif
// all else
template <class E>
static bool tiles_score(int64_t, int64_t, int64_t, int64_t, const E*, const E*, const float*, float*) { return false; }
template <class E>
static bool tiles_mix(int64_t, const E*, int64_t, const E*, int64_t, float*) { return false; }
