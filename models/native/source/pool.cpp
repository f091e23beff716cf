#include "pool.h"

#include <sched.h>

namespace {

constexpr int SPINS = 400;  // before the core is offered to others: some ten microseconds

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

void Patience::wait() {
    ++waits_;
    waits_ < SPINS ? pause() : (void)sched_yield();
}

Pool::Pool(int threads) {
    workers_ = start_threads(threads - 1, [this](int thread) { work(thread); });
}

Pool::~Pool() {
    {
        std::lock_guard lock(mutex_);
        ended_.store(true);
        epoch_.fetch_add(1);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
}

// A thread counts itself as sleeping before it looks at the epoch for the last time, and the epoch changes
// before anybody looks at who sleeps: in the one order of all these accesses (seq_cst) one of the two sees
// the other.
void Pool::run(Job job, void* context) {
    job_.store(job, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    const uint32_t epoch = epoch_.fetch_add(1, std::memory_order_seq_cst) + 1;
    if (sleeping_.load(std::memory_order_seq_cst)) {
        std::lock_guard lock(mutex_);  // not between a thread's last look and its sleep
        wake_.notify_all();
    }
    job(context, {*this, 0, epoch});
}

// As above: a thread counts itself as inside before it looks at the epoch.
void Pool::quiesce() {
    job_.store([](void*, const Turn&) {}, std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    for (Patience patience; inside_.load(std::memory_order_seq_cst);) patience.wait();
}

void Pool::work(int thread) {
    for (uint32_t epoch = 0;;) {
        epoch = next_epoch(epoch);
        if (ended_.load()) return;
        inside_.fetch_add(1, std::memory_order_seq_cst);
        const Turn turn{*this, thread, epoch};
        // Where another job has come in between, this is its context, and finds that its turn is over.
        if (!turn.is_over())
            job_.load(std::memory_order_relaxed)(context_.load(std::memory_order_relaxed), turn);
        inside_.fetch_sub(1, std::memory_order_release);
    }
}

uint32_t Pool::next_epoch(uint32_t seen) {
    for (Patience patience; !patience.exhausted(); patience.wait()) {
        const uint32_t epoch = epoch_.load(std::memory_order_acquire);
        if (epoch != seen) return epoch;
    }
    std::unique_lock lock(mutex_);
    sleeping_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, [&] { return epoch_.load(std::memory_order_seq_cst) != seen; });
    sleeping_.fetch_sub(1, std::memory_order_seq_cst);
    return epoch_.load(std::memory_order_acquire);
}
