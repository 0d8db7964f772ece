// How threads wait for each other: spinning while that is cheap, then asleep.
//
// A thread that only spins can hold the very processor that the thread it waits for was woken on, for milliseconds.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#include "pause.hpp"

namespace lccl {

class Waiting {
  public:
    // For one of so many threads. Longer than it takes to wake a thread on another processor, some hundred
    // microseconds, unless there are more threads than processors: then another thread needs this one's processor.
    explicit Waiting(uint32_t threads) : spins_(threads <= std::thread::hardware_concurrency() ? 8000 : 200) {}

    // Returns when ready() holds. The thread that makes it hold calls notify() afterwards.
    template <class Ready>
    void until(Ready ready) {
        for (uint32_t spins = 0; spins < spins_; ++spins) {
            if (ready()) return;
            pause();
        }
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, ready);
    }

    void notify() {
        { const std::lock_guard<std::mutex> lock(mutex_); }
        changed_.notify_all();
    }

  private:
    const uint32_t spins_;
    std::mutex mutex_;
    std::condition_variable changed_;
};

}  // namespace lccl
