// Threads that work on the same images, step by step.
#pragma once

#include <atomic>
#include <cstdint>

namespace lccl {

class Team {
  public:
    explicit Team(uint32_t size) : size_(size) {}

    uint32_t size() const { return size_; }

    // Waits until every member is here.
    void wait();

    // Hands out [0, tasks) to the members, each number once, and waits for all of them.
    template <class Task>
    void share(uint32_t& round, uint32_t tasks, Task task) {
        if (size_ == 1) {
            for (uint32_t number = 0; number < tasks; ++number) task(number);
            return;
        }
        std::atomic<uint32_t>& next = next_[round % 3].value;
        for (uint32_t number; (number = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) task(number);
        // The next round's counter was last read two rounds ago, before a wait that everyone has passed.
        next_[(round + 1) % 3].value.store(0, std::memory_order_relaxed);
        ++round;
        wait();
    }

  private:
    struct alignas(64) Counter {
        std::atomic<uint32_t> value{0};
    };
    const uint32_t size_;
    Counter next_[3];
    Counter waiting_;
    Counter generation_;
};

}  // namespace lccl
