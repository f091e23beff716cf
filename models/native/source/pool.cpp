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

Pool::Pool(int threads, uint32_t epoch) : epoch_(epoch) {
    workers_ = start_threads(threads - 1, [=](int thread) { work(thread, epoch); });
}

Pool::~Pool() {
    {
        std::lock_guard lock(mutex_);
        ended_.store(true);
        epoch_.fetch_add(2);
    }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
}

// A thread counts itself as sleeping before it looks at the epoch for the last time, and the epoch changes
// before anybody looks at who sleeps: in the one order of all these accesses (seq_cst) one of the two sees
// the other.
void Pool::run(Job job, void* context) {
    const uint32_t epoch = publish(job, context);
    if (sleeping_.load(std::memory_order_seq_cst)) {
        std::lock_guard lock(mutex_);  // not between a thread's last look and its sleep
        wake_.notify_all();
    }
    job(context, {*this, 0, epoch});
}

// As above: a thread counts itself as inside before it looks at the epoch.
void Pool::quiesce() {
    publish([](void*, const Turn&) {}, nullptr);
    for (Patience patience; inside_.load(std::memory_order_seq_cst);) patience.wait();
}

// The epoch is odd while job and context change: who finds it as it was, after reading both, has read two
// that belong together.
uint32_t Pool::publish(Job job, void* context) {
    epoch_.fetch_add(1, std::memory_order_seq_cst);
    job_.store(job, std::memory_order_release);
    context_.store(context, std::memory_order_release);
    return epoch_.fetch_add(1, std::memory_order_seq_cst) + 1;
}

void Pool::work(int thread, uint32_t epoch) {
    for (;;) {
        epoch = next_epoch(epoch);
        if (ended_.load()) return;
        inside_.fetch_add(1, std::memory_order_seq_cst);
        const Turn turn{*this, thread, epoch};
        const Job job = job_.load(std::memory_order_acquire);
        void* const context = context_.load(std::memory_order_acquire);
        if (!turn.is_over()) job(context, turn);
        inside_.fetch_sub(1, std::memory_order_release);
    }
}

uint32_t Pool::next_epoch(uint32_t seen) {
    uint32_t epoch = seen;
    const auto has_job = [&] {
        epoch = epoch_.load(std::memory_order_seq_cst);
        return epoch != seen && epoch % 2 == 0;
    };
    for (Patience patience; !patience.exhausted(); patience.wait())
        if (has_job()) return epoch;
    std::unique_lock lock(mutex_);
    sleeping_.fetch_add(1, std::memory_order_seq_cst);
    wake_.wait(lock, has_job);
    sleeping_.fetch_sub(1, std::memory_order_seq_cst);
    return epoch;
}
