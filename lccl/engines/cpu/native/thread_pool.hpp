// A fixed set of threads; the caller is the first of them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "waiting.hpp"

namespace lccl {

class ThreadPool {
  public:
    // Where `exact`, its threads compute with numbers too small for float32's normal range; else they are 0.
    ThreadPool(uint32_t threads, bool exact);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    uint32_t size() const { return static_cast<uint32_t>(workers_.size()) + 1; }

    // Whether this is a child of the process that made the pool: it has none of the threads.
    bool forked() const;

    // Calls task(0) here and task(1 …) on the other threads, and returns when all have. Tasks must not throw.
    void run(const std::function<void(uint32_t)>& task);

  private:
    void work(uint32_t index);
    void end();
    void place_workers();

    std::vector<std::thread> workers_;
    Waiting task_given_, all_done_;
    int caller_ = -1;  // the processor that the workers leave to it
    const std::function<void(uint32_t)>* task_ = nullptr;
    std::atomic<uint64_t> round_{0};
    std::atomic<uint32_t> busy_{0};
    bool stop_ = false;
    const long process_;
    const bool exact_;
};

}  // namespace lccl
