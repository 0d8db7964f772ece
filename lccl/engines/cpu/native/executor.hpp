// Runs batches through a program on threads of its own.
#pragma once

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "program.hpp"
#include "workspace.hpp"

namespace lccl {

class Executor {
  public:
    // `streams` is how many batches may run at once while they share the threads; 1 for one with all of them.
    Executor(std::unique_ptr<const Program> program, uint32_t threads, uint32_t streams);
    ~Executor();
    Executor(const Executor&) = delete;
    Executor& operator=(const Executor&) = delete;

    // On all threads or, `sharing` them with other batches, on those of one stream.
    void run(const Batch& batch, bool sharing);

    // Throws where this is a forked child of the process that has the threads.
    void check_process() const;

    const Program& program() const { return *program_; }
    Stream& whole() const { return *streams_.front(); }
    uint32_t threads() const { return whole().pool.size(); }
    uint32_t streams() const { return std::max<uint32_t>(1, static_cast<uint32_t>(streams_.size()) - 1); }

  private:
    std::pair<Stream*, std::unique_lock<std::mutex>> take_stream(bool sharing) const;
    void run_in(Stream& stream, const Batch& batch) const;
    void run_steps(Workspace& workspace, uint32_t worker, size_t from, size_t to, uint32_t slot, uint32_t first,
                   uint32_t count) const;

    std::unique_ptr<const Program> program_;
    // The first has all threads. The others, if there are any, have a part of as many each, for batches that share.
    std::vector<std::unique_ptr<Stream>> streams_;
};

// One step, for a worker's active images.
void run_step(const Program& program, const Step& step, Work& work);

// Before a batch: sums start at 0, no image has left, and masks of layers that an image never comes to hold zeros.
void clear(const Program& program, const Batch& batch);

}  // namespace lccl
