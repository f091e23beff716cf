#include "run.h"

#include <algorithm>
#include <ctime>
#include <new>

namespace {

constexpr int FETCHED_AHEAD = 4096;  // lines at most: a quarter of a second cache
constexpr int LINES_AT_ONCE = 8;

// Items of an operation for each thread, measured: fewer leave threads waiting for the last one, more cost
// fetching a panel or a row again.
constexpr int ROW_ITEMS = 4, PANEL_ITEMS = 6, PRODUCT_ITEMS = 64;

int64_t now_ns() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

// Memory of a thread's own: an operand, and scratch for a row or a part.
struct Own {
    std::unique_ptr<char[]> memory;
    int64_t size = 0;
    uint64_t made = 0;  // the epoch in the upper half, and the operation whose operand is there

    char* reserve(int64_t bytes) {
        if (size < bytes) {
            memory = std::make_unique<char[]>(bytes);
            size = bytes;  // not before: there may be no memory for so much
        }
        return (char*)(((uintptr_t)memory.get() + 63) / 64 * 64);
    }
};

Own& own() {
    static thread_local Own mine;
    return mine;
}

uint64_t join(uint32_t upper, uint32_t lower) { return (uint64_t)upper << 32 | lower; }

// Of an item, if there are as many: for fewer it takes too long to fetch a panel, or to open one of blocks.
int fewest_rows(const Weight& matrix) { return matrix.format > INT8 ? 256 : 32; }

// Whether both see the same keys of the same slices.
bool see_alike(const Operation& one, const Operation& other) {
    const Heads &a = *one.heads, &b = *other.heads;
    return one.view == other.view && a.heads == b.heads && a.kv_heads == b.kv_heads &&
           a.padded_dim == b.padded_dim && a.causal == b.causal && a.window == b.window;
}

}  // namespace

// ---- before a run

Program::Program(const Kernels& kernels, const Operation* operations, int count)
    : kernels_(kernels),
      operations_(operations, operations + count),
      source_of_(count, NONE),
      next_product_(count, NONE),
      plan_of_(count, NONE),
      counters_(new Counter[count]),
      cuts_(count) {
    for (int i = 0; i < count; ++i) {
        const Operation& op = operations_[i];
        if (op.kind == ATTEND) {
            plan_of_[i] = plan_for(i);
            scratch_ = std::max(scratch_, Attention::scratch_bytes(*op.heads));
        }
        if (op.kind == LINEAR && op.private_) source_of_[i] = source_of(i);
        if (op.kind == LINEAR && source_of_[i] == NONE) operations_[i].private_ = false;
        widest_ = std::max<int64_t>(widest_, op.width * (op.gated ? 2 : 1));
        if (op.kind == LINEAR && op.matrix->format > INT8)
            scratch_ = std::max(scratch_, op.matrix->inputs * (int64_t)PANEL * 4);
    }
    for (int i = count - 2; i >= 0; --i)
        next_product_[i] = operations_[i + 1].kind == LINEAR ? i + 1 : next_product_[i + 1];
    scratch_ = std::max(scratch_, widest_ * 4);
    attentions_.resize(planned_.size());
}

int Program::plan_for(int index) {
    for (size_t i = 0; i < planned_.size(); ++i)
        if (see_alike(operations_[index], operations_[planned_[i]])) return (int)i;
    planned_.push_back(index);
    return (int)planned_.size() - 1;
}

int Program::source_of(int index) const {
    for (int i = index - 1; i >= 0; --i)
        if (operations_[i].kind != LINEAR && operations_[i].private_ &&
            operations_[i].operand == operations_[index].input)
            return i;
    return NONE;
}

void Program::plan_attention(int threads) {
    for (size_t i = 0; i < attentions_.size(); ++i) {
        const Operation& op = operations_[planned_[i]];
        attentions_[i].build(*op.heads, run_.views[op.view], threads);
    }
}

Program::Cut Program::cut(int index, int threads) const {
    const Operation& op = operations_[index];
    const int tokens = run_.tokens;
    if (op.kind == ATTEND) return {(int)attentions_[plan_of_[index]].parts.size(), 0, 0, 0};
    if (op.kind != LINEAR) {
        if (is_private(op)) return {0, 0, 0, 0};  // whoever multiplies makes it
        const int rows = std::clamp(tokens / (threads * ROW_ITEMS), 1, 16);
        return {divided_up(tokens, rows), rows, 0, 0};
    }
    const int panels = op.matrix->outputs / PANEL;
    // Few rows pass quickly: then even a short wait for the last item is long.
    const int most = tokens > MANY_ROWS ? 4 : tokens > PRIVATE_ROWS ? 8 : 2;
    const int together = std::clamp(panels / (threads * PANEL_ITEMS), 1, most);
    const int groups = divided_up(panels, together);
    // So many items that the last of them keep nobody waiting for long.
    int blocks = std::clamp(divided_up(threads * PRODUCT_ITEMS, groups), 1,
                            std::max(1, tokens / fewest_rows(*op.matrix)));
    const int rows = divided_up(divided_up(tokens, blocks), kernels_.tile_rows) * kernels_.tile_rows;
    blocks = divided_up(tokens, rows);
    return {groups * blocks, rows, blocks, together};
}

void Program::run(Pool& pool, const Run& run) {
    run_ = run;
    own_operand();  // where there is no memory, this throws before anybody has taken an item
    if (run.first == 0) plan_attention(pool.threads());
    for (int i = run.first; i < run.last; ++i) cuts_[i] = cut(i, pool.threads());
    pool.run([](void* self, const Pool::Turn& turn) { ((Program*)self)->work(turn); }, this);
}

// ---- while it runs

void Program::begin(uint32_t epoch) {
    for (int i = run_.first; i < run_.last; ++i) {
        const int items = cuts_[i].items;
        counters_[i].unfinished.store(items, std::memory_order_relaxed);
        for (int share = 0; share < SHARES; ++share)
            counters_[i].open[share].store(join(epoch, start_of(share + 1, items) - start_of(share, items)),
                                           std::memory_order_release);
    }
    range_.store(join(run_.first, run_.last), std::memory_order_relaxed);
    begun_.store(epoch, std::memory_order_release);
}

void Program::work(const Pool::Turn& turn) {
    const bool caller = turn.thread == 0;
    if (caller)
        begin(turn.epoch);
    else if (!has_memory())
        return;
    for (Patience patience; begun_.load(std::memory_order_acquire) != turn.epoch; patience.wait())
        if (turn.is_over()) return;
    const uint64_t range = range_.load(std::memory_order_relaxed);
    int64_t* nanoseconds = caller ? run_.nanoseconds : nullptr;
    for (int i = (int)(range >> 32); i < (int)(uint32_t)range && !turn.is_over(); ++i) {
        const int64_t begun = nanoseconds ? now_ns() : 0;
        work_on(i, turn);
        if (nanoseconds) nanoseconds[i] += now_ns() - begun;
    }
}

// Take items while there are any, then wait for those of others. Memory need not wait: meanwhile the matrix
// of the next product is fetched.
void Program::work_on(int index, const Pool::Turn& turn) {
    auto& unfinished = counters_[index].unfinished;
    const char* ahead = nullptr;
    for (int item; (item = claim(index, turn)) != NONE; unfinished.fetch_sub(1, std::memory_order_acq_rel)) {
        compute(index, item, turn.epoch);
        ahead = next_panel(index, turn);  // now, while there is an item in its hands
    }
    int left = ahead ? FETCHED_AHEAD : 0;
    for (Patience patience; unfinished.load(std::memory_order_acquire) > 0; patience.wait()) {
        if (turn.is_over()) return;
        for (int line = 0; line < LINES_AT_ONCE && left; ++line, --left, ahead += 64)
            __builtin_prefetch(ahead, 0, 2);  // into the second cache
    }
}

// Where this thread will begin with the next product's matrix; null: there is none in this run.
const char* Program::next_panel(int index, const Pool::Turn& turn) const {
    const int next = next_product_[index];
    if (next == NONE || next >= run_.last) return nullptr;
    const Weight& matrix = *operations_[next].matrix;
    const Cut& cut = cuts_[next];
    const int item = start_of(share_of(turn), cut.items);
    return (const char*)matrix.data + item / cut.blocks * cut.panels * kernels_.panel_bytes(matrix);
}

// NONE: no item is left, or the epoch has passed.
int Program::claim(int index, const Pool::Turn& turn) {
    const int own = share_of(turn);
    for (int i = 0; i < SHARES; ++i) {
        const int item = claim_of(index, (own + i) % SHARES, turn.epoch);
        if (item != NONE) return item;
    }
    return NONE;
}

int Program::claim_of(int index, int share, uint32_t epoch) {
    auto& open = counters_[index].open[share];
    uint64_t value = open.load(std::memory_order_relaxed);
    for (;;) {
        if ((uint32_t)(value >> 32) != epoch || !(uint32_t)value) return NONE;
        if (open.compare_exchange_weak(value, value - 1, std::memory_order_acq_rel)) break;
    }
    return start_of(share + 1, cuts_[index].items) - (int)(uint32_t)value;
}

void Program::compute(int index, int item, uint32_t epoch) {
    const Operation& op = operations_[index];
    if (op.kind == LINEAR) return multiply(index, item, epoch);
    if (op.kind == ATTEND)
        return kernels_.part(op, run_, operands_of(op), attentions_[plan_of_[index]], item, own_scratch());
    const int rows = cuts_[index].rows, row = item * rows, behind = std::min(row + rows, run_.tokens);
    kernels_.rows(op, run_, operands_of(op), row, behind, (float*)own_scratch());
}

void Program::multiply(int index, int item, uint32_t epoch) {
    const Operation& op = operations_[index];
    const Cut& cut = cuts_[index];
    if (is_private(op)) make_own_operand(source_of_[index], epoch);
    const int row = item % cut.blocks * cut.rows, panel = item / cut.blocks * cut.panels;
    kernels_.product(op, run_, operands_of(op), row, std::min(row + cut.rows, run_.tokens), panel,
                     std::min(panel + cut.panels, op.matrix->outputs / PANEL), own_scratch());
}

void Program::make_own_operand(int index, uint32_t epoch) {
    const uint64_t wanted = join(epoch, index);
    if (own().made == wanted) return;
    kernels_.rows(operations_[index], run_, {nullptr, own_operand()}, 0, run_.tokens, (float*)own_scratch());
    own().made = wanted;
}

Operands Program::operands_of(const Operation& op) const {
    const auto buffer = [&](int index) { return index == NONE ? nullptr : (char*)run_.buffers[index]; };
    const bool reads = op.kind == LINEAR || op.kind == ATTEND;
    char* read = !reads ? nullptr : is_private(op) ? own_operand() : buffer(op.input);
    return {read, buffer(op.operand)};
}

int64_t Program::own_bytes() const {
    return PRIVATE_ROWS * 4 * ((widest_ + ALIGNMENT) / ALIGNMENT * ALIGNMENT);
}
char* Program::own_operand() const { return own().reserve(own_bytes() + scratch_ + 1024); }
char* Program::own_scratch() const { return own_operand() + own_bytes(); }

bool Program::has_memory() const {
    try {
        return own_operand();
    } catch (const std::bad_alloc&) {
        return false;
    }
}
