// Threads that share the operations of a program.
//
// Nobody waits for a thread, only for work: an operation is over when all of its items are done, whoever did
// them. A thread that the system keeps away from a core holds up nothing but the item in its hands; when it
// comes back late, what it finds has another epoch, and it leaves.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

// Threads that call `work` with their number, from 1 on: `count`, or as many as the system has for us.
template <class Work>
std::vector<std::thread> start_threads(int count, Work work) {
    std::vector<std::thread> threads;
    try {
        while ((int)threads.size() < count) threads.emplace_back(work, (int)threads.size() + 1);
    } catch (const std::exception&) {  // then those that there are do the work
    }
    return threads;
}

class Pool {
  public:
    // What a job is told: which thread runs it (0: the caller), and whether it is still the current one.
    struct Turn {
        const Pool& pool;
        int thread;
        uint32_t epoch;
        bool is_over() const { return pool.epoch_.load(std::memory_order_seq_cst) != epoch; }
    };
    using Job = void (*)(void* context, const Turn& turn);

    // Its epochs follow those of the pool before, up to `epoch`: what a job left behind in its context never
    // looks like a later one's.
    Pool(int threads, uint32_t epoch);
    ~Pool();
    int threads() const { return (int)workers_.size() + 1; }
    // The last one that there was, also when a fork came while a job was made known.
    uint32_t epoch() const { return (epoch_.load(std::memory_order_seq_cst) + 1) & ~1u; }

    // Have `job` run by the caller and by every thread that comes in time. Returns when the caller's has;
    // others may still be about to notice, and come even later: `job` must touch nothing but the context and
    // what an item that it took holds in place.
    void run(Job job, void* context);
    // End what jobs there were, and wait until no thread is in one: before a context is freed.
    void quiesce();

  private:
    uint32_t publish(Job job, void* context);  // returns the epoch
    void work(int thread, uint32_t epoch);
    uint32_t next_epoch(uint32_t seen);

    std::vector<std::thread> workers_;
    std::atomic<uint32_t> epoch_;  // even where there is a job
    std::atomic<int> inside_{0}, sleeping_{0};
    std::atomic<bool> ended_{false};
    std::atomic<Job> job_{nullptr};
    std::atomic<void*> context_{nullptr};
    std::mutex mutex_;
    std::condition_variable wake_;
};

// Waits a moment; longer the more often it was called, and gives the core to others if there are any.
class Patience {
  public:
    void wait();
    bool exhausted() const { return waits_ > 2000; }

  private:
    int waits_ = 0;
};
