// A fixed set of threads; the caller is the first of them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lccl {

class Pool {
  public:
    explicit Pool(uint32_t threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    uint32_t size() const { return static_cast<uint32_t>(workers_.size()) + 1; }

    // Whether this is a child of the process that made the pool: it has none of the threads.
    bool forked() const;

    // Calls task(0) here and task(1 …) on the other threads, and returns when all have. Tasks must not throw.
    void run(const std::function<void(uint32_t)>& task);

  private:
    void work(uint32_t index);
    bool started(uint64_t seen) const { return round_.load(std::memory_order_acquire) != seen; }

    std::vector<std::thread> workers_;
    std::mutex mutex_;
    std::condition_variable wake_;
    const std::function<void(uint32_t)>* task_ = nullptr;
    std::atomic<uint64_t> round_{0};
    std::atomic<uint32_t> busy_{0};
    bool stop_ = false;
    const long process_;
};

}  // namespace lccl
