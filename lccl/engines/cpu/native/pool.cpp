#include "pool.hpp"

#include <unistd.h>

#include "pause.hpp"

namespace lccl {

namespace {
constexpr uint32_t kSpins = 2000;  // some tens of microseconds: what lies between two runs of a busy server
}

Pool::Pool(uint32_t threads) : process_(getpid()) {
    for (uint32_t index = 1; index < threads; ++index) workers_.emplace_back([this, index] { work(index); });
}

Pool::~Pool() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
        round_.fetch_add(1, std::memory_order_release);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

bool Pool::forked() const { return getpid() != process_; }

void Pool::run(const std::function<void(uint32_t)>& task) {
    if (!workers_.empty()) {
        busy_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            task_ = &task;
            round_.fetch_add(1, std::memory_order_release);
        }
        wake_.notify_all();
    }
    {
        const FlushDenormals flush;
        task(0);
    }
    for (uint32_t spins = 0; busy_.load(std::memory_order_acquire); ++spins) {
        if (spins < kSpins) {
            pause();
        } else {
            std::this_thread::yield();
        }
    }
}

void Pool::work(uint32_t index) {
    const FlushDenormals flush;
    uint64_t seen = 0;
    for (;;) {
        for (uint32_t spins = 0; spins < kSpins && !started(seen); ++spins) pause();
        {
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, [&] { return started(seen); });
            seen = round_.load(std::memory_order_relaxed);
            if (stop_) return;
        }
        (*task_)(index);
        busy_.fetch_sub(1, std::memory_order_release);
    }
}

}  // namespace lccl
