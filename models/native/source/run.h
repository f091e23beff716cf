// A program: what it consists of, and how its threads share it.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "kernels.h"
#include "pool.h"

// Only a thread that has an item of the current run in its hands may look at the run: the run cannot end, and
// what it was given cannot go away, before the item is done. A thread without one sees atomic counters only.
class Program {
  public:
    Program(const Kernels& kernels, const Operation* operations, int count);
    // When it returns, nobody uses what `run` points to any more.
    void run(Pool& pool, const Run& run);

  private:
    // How an operation is cut into items.
    struct Cut {
        int items, rows, blocks, panels;
    };

    // Items lie in shares, and a thread takes those of its own share first: what it reads lies side by side.
    static constexpr int SHARES = 8;

    struct alignas(64) Counter {
        std::atomic<uint64_t> open[SHARES]{};  // the epoch in the upper half, and how many nobody has taken
        alignas(64) std::atomic<int32_t> unfinished{0};
    };

    // Before a run
    int plan_for(int index);
    int source_of(int index) const;
    void plan_attention(int threads);
    Cut cut(int index, int threads) const;

    // While it runs
    void work(const Pool::Turn& turn);
    void begin(uint32_t epoch);
    static int start_of(int share, int items) { return items * share / SHARES; }
    static int share_of(const Pool::Turn& turn) { return turn.thread * SHARES / turn.pool.threads(); }
    void work_on(int index, const Pool::Turn& turn);
    const char* next_panel(int index, const Pool::Turn& turn) const;
    int claim(int index, const Pool::Turn& turn);
    int claim_of(int index, int share, uint32_t epoch);
    void compute(int index, int item, uint32_t epoch);
    void multiply(int index, int item, uint32_t epoch);
    void make_own_operand(int index, uint32_t epoch);

    bool is_private(const Operation& op) const { return op.private_ && run_.tokens <= PRIVATE_ROWS; }
    Operands operands_of(const Operation& op) const;
    int64_t own_bytes() const;
    char* own_operand() const;
    char* own_scratch() const;
    bool has_memory() const;  // of its own: a thread without takes no items

    const Kernels& kernels_;
    std::vector<Operation> operations_;
    std::vector<int> source_of_;  // of a product that reads a thread's own operand: which operation makes it
    std::vector<int> next_product_;  // behind each operation
    std::vector<int> plan_of_, planned_;
    int64_t widest_ = 0, scratch_ = 0;  // elements of a row; bytes
    std::unique_ptr<Counter[]> counters_;
    // Of operations in the run: the first in the upper half, behind the last.
    std::atomic<uint64_t> range_{0};
    std::atomic<uint32_t> begun_{0};  // the epoch whose counters are open

    // Of the current run
    Run run_{};
    std::vector<Cut> cuts_;
    std::vector<Attention> attentions_;
};
