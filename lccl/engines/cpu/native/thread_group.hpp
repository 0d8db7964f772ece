// Threads that work on the same images, step by step.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "waiting.hpp"

namespace lccl {

class ThreadGroup {
  public:
    explicit ThreadGroup(uint32_t size) : size_(size), done_(size_t{3} * size), others_(size) {}

    uint32_t size() const { return size_; }

    // Waits until every worker is here.
    void wait();

    // Does each of [0, tasks) once, shared among the workers, and waits for all of them. A worker starts with its own
    // part of the range, as the same part of a map was its own in the step before and may still be in its cache, and
    // then helps the others with theirs.
    template <class Task>
    void share(uint32_t& round, uint32_t worker, uint32_t tasks, Task task) {
        if (size_ == 1) {
            for (uint32_t number = 0; number < tasks; ++number) task(number);
            return;
        }
        Counter* const done = counters(round);
        for (uint32_t n = 0; n < size_; ++n) {
            const uint32_t owner = (worker + n) % size_;
            const uint32_t first = start(tasks, owner), last = start(tasks, owner + 1);
            std::atomic<uint32_t>& taken = done[owner].value;
            for (uint32_t number; (number = first + taken.fetch_add(1, std::memory_order_relaxed)) < last;) {
                task(number);
            }
        }
        // The next round's counters were last read two rounds ago, before a wait that every worker has passed.
        counters(round + 1)[worker].value.store(0, std::memory_order_relaxed);
        ++round;
        wait();
    }

  private:
    struct alignas(64) Counter {
        std::atomic<uint32_t> value{0};
    };
    Counter* counters(uint32_t round) { return &done_[round % 3 * size_]; }
    uint32_t start(uint32_t tasks, uint32_t worker) const {
        return static_cast<uint32_t>(uint64_t{tasks} * worker / size_);
    }

    const uint32_t size_;
    std::vector<Counter> done_;  // [3][workers]
    Counter arrived_;
    Counter generation_;
    Waiting others_;
};

}  // namespace lccl
