// Programs, and the functions that Python calls.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>

#include "kernels.h"
#include "pool.h"

namespace {

#if defined(__x86_64__)
bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}
#endif

// The best that this processor has, or those of the name; null: it has none such.
const Kernels* kernels_named(const char* name) {
    const bool any = !*name;
#if defined(__x86_64__)
    if ((any || !strcmp(name, "avx512")) && has_avx512()) return kernels_avx512();
    if ((any || !strcmp(name, "avx2")) && has_avx2()) return kernels_avx2();
#endif
    return any || !strcmp(name, "plain") ? kernels_plain() : nullptr;
}

const Kernels* kernels = nullptr;
std::unique_ptr<Pool> pool;

int64_t now_ns() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

// Memory of a thread's own: an operand and scratch for a row or a part.
struct Own {
    std::unique_ptr<char[]> memory;
    int64_t size = 0;
    char* reserve(int64_t bytes) {
        if (size < bytes) memory = std::make_unique<char[]>(size = bytes);
        return (char*)(((uintptr_t)memory.get() + 63) / 64 * 64);
    }
};

Own& own() {
    static thread_local Own mine;
    return mine;
}

// How an operation is cut into items.
struct Cut {
    int items, rows, blocks, panels;
};

struct alignas(64) Counter {
    std::atomic<uint64_t> next{0};  // epoch in the upper half, the next item in the lower
    alignas(64) std::atomic<int32_t> done{0};
};

class Program {
  public:
    Program(const Operation* operations, int count) : operations_(operations, operations + count), cuts_(count), counters_(new Counter[count]), plan_of_(count, NONE) {
        for (int i = 0; i < count; ++i)
            if (operations_[i].kind == ATTEND) plan_of_[i] = plan_for(i);
        for (const auto& op : operations_) widest_ = std::max<int64_t>(widest_, op.width * (op.gated ? 2 : 1));
    }

    void run(const Run& run) {
        run_ = run;
        if (run.first == 0)
            for (size_t i = 0; i < attentions_.size(); ++i) attentions_[i].build(*operations_[planned_[i]].heads, run.views[operations_[planned_[i]].view]);
        for (int i = run.first; i < run.last; ++i) cuts_[i] = cut(i);
        pool->run([](void* self, int thread, uint32_t epoch) { ((Program*)self)->work(thread, epoch); }, this);
    }

  private:
    int plan_for(int index) {
        const Heads& heads = *operations_[index].heads;
        for (size_t i = 0; i < planned_.size(); ++i) {
            const Operation& other = operations_[planned_[i]];
            const Heads& theirs = *other.heads;
            if (other.view == operations_[index].view && theirs.heads == heads.heads && theirs.kv_heads == heads.kv_heads && theirs.padded_dim == heads.padded_dim && theirs.causal == heads.causal && theirs.window == heads.window) return (int)i;
        }
        planned_.push_back(index);
        attentions_.emplace_back();
        return (int)planned_.size() - 1;
    }

    bool is_private(const Operation& op) const { return op.private_ && run_.tokens <= PRIVATE_ROWS; }

    Cut cut(int index) const {
        const Operation& op = operations_[index];
        const int threads = pool->threads(), tokens = run_.tokens;
        if (op.kind == ATTEND) return {(int)attentions_[plan_of_[index]].parts.size(), 0, 0, 0};
        if (op.kind != LINEAR) {
            const int rows = std::clamp(tokens / (threads * 4), 1, 16);
            return {(tokens + rows - 1) / rows, rows, 0, 0};
        }
        const int panels = op.matrix->outputs / PANEL;
        const int together = std::clamp(panels / (threads * 6), 1, tokens > 128 ? 4 : 8);
        const int groups = (panels + together - 1) / together;
        int blocks = 1;
        if (tokens > 128) blocks = std::clamp(threads * 4 / groups, 1, tokens / 64);
        const int rows = ((tokens + blocks - 1) / blocks + kernels->tile_rows - 1) / kernels->tile_rows * kernels->tile_rows;
        blocks = (tokens + rows - 1) / rows;
        return {groups * blocks, rows, blocks, together};
    }

    // -1: none left, or the epoch has passed.
    int claim(int index, uint32_t epoch) {
        auto& next = counters_[index].next;
        uint64_t value = next.load(std::memory_order_relaxed);
        for (;;) {
            if ((uint32_t)(value >> 32) != epoch || (int)(uint32_t)value >= cuts_[index].items) return -1;
            if (next.compare_exchange_weak(value, value + 1, std::memory_order_acq_rel)) return (int)(uint32_t)value;
        }
    }

    // The caller opens the counters of its epoch; others wait for that.
    bool enter(int thread, uint32_t epoch) {
        if (thread == 0) {
            for (int i = run_.first; i < run_.last; ++i) {
                counters_[i].done.store(0, std::memory_order_relaxed);
                counters_[i].next.store((uint64_t)epoch << 32, std::memory_order_release);
            }
            opened_.store(epoch, std::memory_order_release);
            return true;
        }
        for (Patience patience; opened_.load(std::memory_order_acquire) != epoch; patience.wait())
            if (!pool->is_current(epoch)) return false;
        return true;
    }

    void work(int thread, uint32_t epoch) {
        if (!enter(thread, epoch)) return;
        const int first = run_.first, last = run_.last;
        int64_t* nanoseconds = thread == 0 ? run_.nanoseconds : nullptr;
        int64_t begun = nanoseconds ? now_ns() : 0;
        for (int i = first; i < last; ++i) {
            if (thread && !pool->is_current(epoch)) return;
            if (operations_[i].kind != LINEAR && is_private(operations_[i])) {
                make_private(i);
            } else {
                for (int item; (item = claim(i, epoch)) >= 0; counters_[i].done.fetch_add(1, std::memory_order_acq_rel)) compute(i, item);
                for (Patience patience; counters_[i].done.load(std::memory_order_acquire) < cuts_[i].items; patience.wait())
                    if (thread && !pool->is_current(epoch)) return;
            }
            if (nanoseconds) {
                const int64_t ended = now_ns();
                nanoseconds[i] += ended - begun;
                begun = ended;
            }
        }
    }

    int64_t private_bytes() const { return PRIVATE_ROWS * (widest_ + ALIGNMENT) * 4; }
    char* private_memory() const { return own().reserve(private_bytes() + SCRATCH_BYTES + widest_ * 4 + 1024); }

    Operands operands_of(const Operation& op) const {
        if (is_private(op)) return {private_memory(), private_memory()};
        char* read = op.kind == LINEAR || op.kind == ATTEND ? (char*)run_.buffers[op.input] : nullptr;
        return {read, op.operand == NONE ? nullptr : (char*)run_.buffers[op.operand]};
    }

    void make_private(int index) {
        const Operation& op = operations_[index];
        kernels->rows(op, run_, operands_of(op), 0, run_.tokens, (float*)(private_memory() + private_bytes()));
    }

    void compute(int index, int item) {
        const Operation& op = operations_[index];
        const Cut& cut = cuts_[index];
        char* scratch = private_memory() + private_bytes();
        Operands operands = operands_of(op);
        if (op.kind == ATTEND) {
            kernels->part(op, run_, operands, attentions_[plan_of_[index]], item, scratch);
        } else if (op.kind == LINEAR) {
            if (is_private(op)) operands.write = op.operand == NONE ? nullptr : (char*)run_.buffers[op.operand];
            const int row = item % cut.blocks * cut.rows, panel = item / cut.blocks * cut.panels;
            kernels->product(op, run_, operands, row, std::min(row + cut.rows, run_.tokens), panel, std::min(panel + cut.panels, op.matrix->outputs / PANEL));
        } else {
            const int row = item * cut.rows;
            kernels->rows(op, run_, operands, row, std::min(row + cut.rows, run_.tokens), (float*)scratch);
        }
    }

    std::vector<Operation> operations_;
    std::vector<Cut> cuts_;
    std::unique_ptr<Counter[]> counters_;
    std::vector<int> plan_of_, planned_;
    std::vector<Attention> attentions_;
    int64_t widest_ = 0;
    Run run_{};
    std::atomic<uint32_t> opened_{0};
};

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// Which kernels run, by name; the best there are where it is empty. False: this processor has none of that name.
bool triptych_start(const char* name, int threads) {
    const Kernels* wanted = kernels_named(name);
    if (!wanted) return false;
    pool.reset();
    kernels = wanted;
    pool = std::make_unique<Pool>(threads);
    return true;
}
const char* triptych_kernels() { return kernels->name; }

int64_t triptych_operand_bytes(int32_t format, int64_t width) { return kernels->operand_bytes(format, width); }

void triptych_pack(const Weight* weight, const void* rows, int32_t rows_format, int outputs, int inputs, void* data, float* scales) {
    kernels->pack(*weight, rows, rows_format, outputs, inputs, data, scales);
}
void triptych_unpack(const Weight* weight, const int64_t* indices, int count, float* rows) {
    for (int i = 0; i < count; ++i) kernels->unpack(*weight, (int)indices[i], rows + (int64_t)i * weight->inputs);
}

void* triptych_program(const Operation* operations, int count) { return new Program(operations, count); }
void triptych_run(void* program, const Run* run) { ((Program*)program)->run(*run); }
void triptych_free(void* program) {
    pool->quiesce();
    delete (Program*)program;
}
void triptych_quiesce() { pool->quiesce(); }

}  // extern "C"
#pragma GCC visibility pop
