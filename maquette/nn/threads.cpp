// Work shared out among threads: torch's own, which stay awake for a moment after each of its functions and would be in the way of
// others; hands of ours where its OpenMP is another than GCC's. To be included.
#pragma once
#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

static inline void rest() {
#ifdef __SSE2__
    __builtin_ia32_pause();
#endif
}

// Those who do one piece of work, each by its number.
struct Team {
    void (*work)(Team&, void*, int64_t);
    void* about;
    std::atomic<int64_t> members{1}, waiting{0}, turn{0};

    // until every member is here
    void meet() {
        if (members == 1) return;
        const int64_t now = turn.load();
        if (++waiting == members) {
            waiting = 0;
            turn++;
            return;
        }
        for (int i = 1; turn.load() == now; i++) i % 4096 ? rest() : std::this_thread::yield();
    }
};

// Hands that stay. They wait awake for a moment, as more work comes soon, and then sleep. Whoever calls works, too.
struct Hands {
    std::vector<std::thread> all;
    std::mutex calling, door;
    std::condition_variable bell;
    std::atomic<uint64_t> called{0}, gone{0};
    Team* team = nullptr;
    pid_t home = getpid();

    void hand(int64_t number, uint64_t heard) {
        for (;;) {
            for (int i = 0; called.load() == heard && i < 20000; i++) rest();
            if (called.load() == heard) {
                std::unique_lock<std::mutex> lock(door);
                bell.wait(lock, [&] { return called.load() != heard; });
            }
            heard = called.load();
            if (number < team->members) team->work(*team, team->about, number);
            gone++;
        }
    }
    void work(Team& now) {
        std::lock_guard<std::mutex> one(calling);
        while (int64_t(all.size()) + 1 < now.members) all.emplace_back(&Hands::hand, this, int64_t(all.size()) + 1, called.load());
        team = &now, gone = 0;
        { std::lock_guard<std::mutex> lock(door); called++; }
        bell.notify_all();
        now.work(now, now.about, 0);
        for (int i = 1; gone.load() < all.size(); i++) i % 4096 ? rest() : std::this_thread::yield();
    }
};

// GCC's OpenMP, where torch has loaded it. Linked, it might be another one, with threads of its own.
struct OpenMP {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*number)() = nullptr, (*members)() = nullptr;
    pid_t home = getpid();

    OpenMP() {
        number = (int (*)())dlsym(RTLD_DEFAULT, "omp_get_thread_num");
        members = (int (*)())dlsym(RTLD_DEFAULT, "omp_get_num_threads");
        if (number && members) parallel = (decltype(parallel))dlsym(RTLD_DEFAULT, "GOMP_parallel");
    }
};
static const OpenMP openmp;

// Work for at most `count` threads. A process that was forked off has none of the threads of the one that it comes from.
static void together(int64_t count, void (*work)(Team&, void*, int64_t), void* about) {
    static Hands* hands = nullptr;  // never destroyed: its threads end with the process
    static std::mutex making;
    Team team{work, about};
    if (count > 1 && openmp.parallel && openmp.home == getpid()) {
        auto run = [](void* about) {
            Team& team = *(Team*)about;
            team.members = openmp.members();  // every member says the same, and before it begins
            team.work(team, team.about, openmp.number());
        };
        openmp.parallel(run, &team, count, 0);
    } else if (count > 1) {
        team.members = count;
        {
            std::lock_guard<std::mutex> lock(making);
            if (!hands || hands->home != getpid()) hands = new Hands;
        }
        hands->work(team);
    } else {
        work(team, about, 0);
    }
}

// part(first, last) for all of 0 .. rows - 1, in as many parts as there are threads
template <class F>
static void shared(int64_t threads, int64_t rows, F part) {
    struct About { F& part; int64_t rows; } about{part, rows};
    auto work = [](Team& team, void* about, int64_t number) {
        const auto& [part, rows] = *(About*)about;
        part(rows * number / team.members, rows * (number + 1) / team.members);
    };
    together(std::min(threads, rows), work, &about);
}

// what is to be done for rows first .. last, as all that a function of `threads` and `rows` does
#define SHARED(...) shared(threads, rows, [=](int64_t first, int64_t last) { __VA_ARGS__; })
