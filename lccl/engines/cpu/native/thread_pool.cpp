#include "thread_pool.hpp"

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif
#include <unistd.h>

#include "pause.hpp"

namespace lccl {

ThreadPool::ThreadPool(uint32_t threads, bool exact)
    : task_given_(threads), all_done_(threads), process_(getpid()), exact_(exact) {
    workers_.reserve(threads);
    try {
        for (uint32_t index = 1; index < threads; ++index) workers_.emplace_back([this, index] { work(index); });
    } catch (...) {  // the system gives no more threads: those that are there wait on members that are about to go
        end();
        throw;
    }
}

ThreadPool::~ThreadPool() { end(); }

void ThreadPool::end() {
    stop_ = true;
    round_.fetch_add(1, std::memory_order_release);
    task_given_.notify();
    for (std::thread& worker : workers_) worker.join();
}

bool ThreadPool::forked() const { return getpid() != process_; }

void ThreadPool::run(const std::function<void(uint32_t)>& task) {
    if (!workers_.empty()) {
        busy_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
        place_workers();
        task_ = &task;
        round_.fetch_add(1, std::memory_order_release);
        task_given_.notify();
    }
    {
        const FlushDenormals flush(!exact_);
        task(0);
    }
    all_done_.until([&] { return busy_.load(std::memory_order_acquire) == 0; });
}

// Keeps workers off the caller's processor. Schedulers may wake a thread where the one that wakes it runs, though
// another processor idles, and every barrier is a switch of threads then. With as many threads as processors each
// worker gets one to itself; with fewer the system chooses among the others by their load.
void ThreadPool::place_workers() {
#ifdef __linux__
    const int here = sched_getcpu();
    cpu_set_t others;
    if (here == caller_ || here < 0 || here >= CPU_SETSIZE || sched_getaffinity(0, sizeof others, &others)) return;
    const size_t count = static_cast<size_t>(CPU_COUNT(&others));
    CPU_CLR(static_cast<size_t>(here), &others);
    if (count < size()) return;
    caller_ = here;
    size_t processor = 0;
    for (std::thread& worker : workers_) {
        cpu_set_t chosen = others;
        if (count == size()) {
            while (!CPU_ISSET(processor, &others)) ++processor;
            CPU_ZERO(&chosen);
            CPU_SET(processor++, &chosen);
        }
        pthread_setaffinity_np(worker.native_handle(), sizeof chosen, &chosen);
    }
#endif
}

void ThreadPool::work(uint32_t index) {
    const FlushDenormals flush(!exact_);
    for (uint64_t seen = 0;;) {
        task_given_.until([&] { return round_.load(std::memory_order_acquire) != seen; });
        seen = round_.load(std::memory_order_acquire);
        if (stop_) return;
        (*task_)(index);
        if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) all_done_.notify();
    }
}

}  // namespace lccl
