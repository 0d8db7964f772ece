// The memory and threads that run steps of a program: for one image on one thread, or for a group of them on several.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "program.hpp"
#include "thread_group.hpp"
#include "thread_pool.hpp"

namespace lccl {

struct Worker {  // a thread's part of a workspace
    std::vector<Active> active;
    Memory kept, skipped, blocks, cells;
    Work work;
};

struct Workspace {
    // Room for `images` at once, their maps in the arenas given.
    Workspace(const Program& program, uint32_t workers, uint32_t images, char* private_arena, char* group_arena);

    void prepare(const Batch& batch);

    std::unique_ptr<ThreadGroup> threads;
    std::vector<Worker> workers;
    std::vector<Map> maps;
    Memory gates, hidden;
    std::vector<double> seconds;  // per step
};

struct Stream {  // threads, and the workspaces that they run a batch in
    Stream(const Program& program, uint32_t threads);

    ThreadPool pool;
    const uint32_t slots;        // images of a group
    std::vector<Memory> arenas;  // each thread's, for the image it works on
    Memory group_arena;          // one for all, [slots]
    std::vector<Workspace> solo;
    std::unique_ptr<Workspace> joint;
    std::mutex running;
};

}  // namespace lccl
