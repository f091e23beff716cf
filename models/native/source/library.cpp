// The functions that Python calls.
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "run.h"

namespace {

constexpr int FEWEST_PANELS = 4;  // that a thread is started for

// WITHOUT: what the compiler does not know.
#if defined(__x86_64__) && !defined(TRIPTYCH_WITHOUT_AVX2)
bool has_avx2() {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif
#if defined(__x86_64__) && !defined(TRIPTYCH_WITHOUT_AVX512)
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}
#endif

// The best that this processor has, or those of the name; null: it has none such.
const Kernels* kernels_named(const char* name) {
    const bool any = !*name;
#if defined(__x86_64__) && !defined(TRIPTYCH_WITHOUT_AVX512)
    if ((any || !strcmp(name, "avx512")) && has_avx512()) return kernels_avx512();
#endif
#if defined(__x86_64__) && !defined(TRIPTYCH_WITHOUT_AVX2)
    if ((any || !strcmp(name, "avx2")) && has_avx2()) return kernels_avx2();
#endif
    return any || !strcmp(name, "plain") ? kernels_plain() : nullptr;
}

struct Surveying {
    const Kernels& kernels;
    const Survey& survey;
    std::atomic<int> next{0};
    std::atomic<bool> failed{false};

    void take_rows() {
        try {
            for (int row; (row = next.fetch_add(1, std::memory_order_relaxed)) < survey.rows;)
                kernels.survey(survey, row);
        } catch (const std::bad_alloc&) {  // which may not leave a thread of the pool
            failed = true;
        }
    }
};

// One program runs at a time, on threads that start with the first.
class Stage {
  public:
    Stage(int threads, uint32_t epoch) : threads_(threads), epoch_(epoch) {}

    void run(Program& program, const Run& run) {
        std::lock_guard lock(mutex_);
        program.run(pool(), run);
    }
    // Rows are taken one at a time. A single one wakes nobody.
    void survey(const Kernels& kernels, const Survey& survey) {
        std::lock_guard lock(mutex_);
        Surveying work{kernels, survey};
        survey.rows < 2 ? work.take_rows() : by_all(work);
        if (work.failed) throw std::bad_alloc();
    }
    void resize(int threads) {
        std::lock_guard lock(mutex_);
        epoch_ = epoch();
        pool_.reset();
        threads_ = threads;
    }
    void quiesce() {
        std::lock_guard lock(mutex_);
        if (pool_) pool_->quiesce();
    }
    int threads() const { return threads_; }
    // Of the last job, which programs remember.
    uint32_t epoch() const { return pool_ ? pool_->epoch() : epoch_; }

  private:
    Pool& pool() {
        if (!pool_) pool_ = std::make_unique<Pool>(threads_, epoch_);
        return *pool_;
    }
    void by_all(Surveying& work) {
        pool().run([](void* context, const Pool::Turn&) { ((Surveying*)context)->take_rows(); }, &work);
        pool_->quiesce();  // whoever has a row still finishes it, and nobody looks at `work` any more
    }

    std::mutex mutex_;
    std::unique_ptr<Pool> pool_;
    int threads_;
    uint32_t epoch_;  // that the next pool begins with
};

const Kernels* kernels = nullptr;
// Never deleted: at the end of the process threads may still be asleep in it, and in the child of a fork,
// which has none of them, nothing of it can be used: not a lock that a lost thread holds, nor threads to
// join.
Stage* stage = nullptr;

void open_stage(int threads) {
    if (stage) return stage->resize(threads);
    stage = new Stage(threads, 0);
    pthread_atfork(nullptr, nullptr, [] { stage = new Stage(stage->threads(), stage->epoch()); });
}

thread_local char failure[256];  // why this thread's last call failed

// Whether `call` came to its end. No exception goes farther: whoever called is no C++.
template <class Call>
bool guarded(Call call) {
    try {
        call();
        return true;
    } catch (const std::bad_alloc&) {
        snprintf(failure, sizeof failure, "there is not enough memory");
    } catch (const std::exception& error) {
        snprintf(failure, sizeof failure, "%s", error.what());
    }
    return false;
}

// By threads that come and go: those of the pool may be in the middle of a step of another model.
void pack(const Weight& weight, const void* rows, int32_t rows_format, int outputs, int inputs, void* data) {
    const int panels = weight.outputs / PANEL;
    std::atomic<int> next{0};
    const auto work = [&](int) {
        for (int panel; (panel = next.fetch_add(1, std::memory_order_relaxed)) < panels;)
            kernels->pack(weight, rows, rows_format, outputs, inputs, data, panel);
    };
    auto others = start_threads(std::min(stage->threads(), panels / FEWEST_PANELS) - 1, work);
    work(0);
    for (auto& other : others) other.join();
}

}  // namespace

// Those that return a bool can fail: false, and `triptych_failure` says why.
#pragma GCC visibility push(default)
extern "C" {

const char* triptych_failure() { return failure; }

// Whether this processor, and the compiler, have kernels of the name.
bool triptych_has(const char* name) { return kernels_named(name); }
// Which kernels run, by name; the best there are where it is empty.
bool triptych_start(const char* name, int threads) {
    return guarded([=] {
        const Kernels* wanted = kernels_named(name);
        if (!wanted) throw std::invalid_argument("there are no kernels of this name");
        kernels = wanted;
        open_stage(threads);
    });
}
const char* triptych_kernels() { return kernels->name; }

int64_t triptych_operand_bytes(int32_t format, int64_t width) {
    return kernels->operand_bytes(format, width);
}

bool triptych_pack(const Weight* weight, const void* rows, int32_t rows_format, int outputs, int inputs,
                   void* data) {
    return guarded([=] { pack(*weight, rows, rows_format, outputs, inputs, data); });
}
void triptych_unpack(const Weight* weight, const int64_t* indices, int count, float* rows) {
    for (int i = 0; i < count; ++i)
        kernels->unpack(*weight, (int)indices[i], rows + (int64_t)i * weight->inputs);
}

int64_t triptych_peak(int32_t format, int64_t rounds, float* sink) {
    return kernels->peak(format, rounds, sink);
}

bool triptych_survey(const Survey* survey) {
    return guarded([=] { stage->survey(*kernels, *survey); });
}

bool triptych_program(const Operation* operations, int count, void** program) {
    return guarded([=] { *program = new Program(*kernels, operations, count); });
}
bool triptych_run(void* program, const Run* run) {
    return guarded([=] { stage->run(*(Program*)program, *run); });
}
bool triptych_free(void* program) {
    return guarded([=] {
        stage->quiesce();
        delete (Program*)program;
    });
}
bool triptych_quiesce() {
    return guarded([] { stage->quiesce(); });
}

}  // extern "C"
#pragma GCC visibility pop
