// The functions that Python calls.
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "run.h"

namespace {

constexpr int FEWEST_PANELS = 4;  // that a thread is started for

#if defined(__x86_64__)
bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
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

struct Surveying {
    const Kernels& kernels;
    const Survey& survey;
    std::atomic<int> next{0};

    void take_rows() {
        for (int row; (row = next.fetch_add(1, std::memory_order_relaxed)) < survey.rows;)
            kernels.survey(survey, row);
    }
};

// One program runs at a time, on threads that start with the first.
class Stage {
  public:
    explicit Stage(int threads) : threads_(threads) {}

    void run(Program& program, const Run& run) {
        std::lock_guard lock(mutex_);
        if (!pool_) pool_ = std::make_unique<Pool>(threads_);
        program.run(*pool_, run);
    }
    // Rows are taken one at a time. A single one wakes nobody.
    void survey(const Kernels& kernels, const Survey& survey) {
        std::lock_guard lock(mutex_);
        Surveying work{kernels, survey};
        if (survey.rows < 2) return work.take_rows();
        if (!pool_) pool_ = std::make_unique<Pool>(threads_);
        pool_->run([](void* context, const Pool::Turn&) { ((Surveying*)context)->take_rows(); }, &work);
        pool_->quiesce();  // whoever has a row still finishes it, and nobody looks at `work` any more
    }
    void resize(int threads) {
        std::lock_guard lock(mutex_);
        pool_.reset();
        threads_ = threads;
    }
    void quiesce() {
        std::lock_guard lock(mutex_);
        if (pool_) pool_->quiesce();
    }
    int threads() const { return threads_; }

  private:
    std::mutex mutex_;
    std::unique_ptr<Pool> pool_;
    int threads_;
};

const Kernels* kernels = nullptr;
// Never deleted: at the end of the process threads may still be asleep in it, and in the child of a fork,
// which has none of them, nothing of it can be used: not a lock that a lost thread holds, nor threads to
// join.
Stage* stage = nullptr;

void open_stage(int threads) {
    if (stage) return stage->resize(threads);
    stage = new Stage(threads);
    pthread_atfork(nullptr, nullptr, [] { stage = new Stage(stage->threads()); });
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

// Which kernels run, by name; the best there are where it is empty. False: this processor has none of that
// name.
bool triptych_start(const char* name, int threads) {
    const Kernels* wanted = kernels_named(name);
    if (!wanted) return false;
    kernels = wanted;
    open_stage(threads);
    return true;
}
const char* triptych_kernels() { return kernels->name; }

int64_t triptych_operand_bytes(int32_t format, int64_t width) {
    return kernels->operand_bytes(format, width);
}

// By threads that come and go: those of the pool may be in the middle of a step of another model.
void triptych_pack(const Weight* weight, const void* rows, int32_t rows_format, int outputs, int inputs,
                   void* data) {
    const int panels = weight->outputs / PANEL;
    std::atomic<int> next{0};
    const auto work = [&] {
        for (int panel; (panel = next.fetch_add(1, std::memory_order_relaxed)) < panels;)
            kernels->pack(*weight, rows, rows_format, outputs, inputs, data, panel);
    };
    std::vector<std::thread> others;
    while ((int)others.size() + 1 < std::min(stage->threads(), panels / FEWEST_PANELS)) others.emplace_back(work);
    work();
    for (auto& other : others) other.join();
}
void triptych_unpack(const Weight* weight, const int64_t* indices, int count, float* rows) {
    for (int i = 0; i < count; ++i)
        kernels->unpack(*weight, (int)indices[i], rows + (int64_t)i * weight->inputs);
}

int64_t triptych_peak(int32_t format, int64_t rounds, float* sink) {
    return kernels->peak(format, rounds, sink);
}

void triptych_survey(const Survey* survey) { stage->survey(*kernels, *survey); }

void* triptych_program(const Operation* operations, int count) {
    return new Program(*kernels, operations, count);
}
void triptych_run(void* program, const Run* run) { stage->run(*(Program*)program, *run); }
void triptych_free(void* program) {
    stage->quiesce();
    delete (Program*)program;
}
void triptych_quiesce() { stage->quiesce(); }

}  // extern "C"
#pragma GCC visibility pop
