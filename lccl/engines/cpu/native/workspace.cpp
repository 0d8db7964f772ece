#include "workspace.hpp"

#include <algorithm>

namespace lccl {

namespace {

struct Needs {  // the most that any step takes
    size_t rows = 0, gates = 0, cells = 0, hidden = 0, blocks = 0;
};

Needs needs_of(const Program& program, uint32_t slots) {
    const Kernels& kernels = *program.kernels;
    Needs needs;
    for (size_t number = 0; number < program.steps.size(); ++number) {
        const size_t images = number >= program.first_grouped ? slots : 1;
        if (const auto* exit = std::get_if<ExitStep>(&program.steps[number])) {
            needs.hidden = std::max(needs.hidden, images * exit->hidden.out);
        }
        const auto* step = std::get_if<ConvolveStep>(&program.steps[number]);
        if (!step) continue;
        const GateSpec& gate = step->gate;
        needs.rows = std::max(needs.rows, images * step->positions);
        needs.gates = std::max(needs.gates, images * step->positions * gate.groups);
        if (gate.layer != kNone && gate.per_cell) {
            needs.cells = std::max(needs.cells, round_up(gate.groups, kernels.lanes));
        }
        if (!kernels.packed_bytes) continue;
        const size_t k = round_up(size_t{step->runs} * round_up(step->run, kernels.k_step), 64);
        const size_t gate_k = round_up(size_t{gate.runs} * round_up(gate.run, kernels.k_step), 64);
        needs.blocks = std::max(needs.blocks, (std::max(k, gate_k) * kernels.packed_bytes + 64) * kernels.rows);
    }
    return needs;
}

Worker allocate_worker(const Kernels& kernels, const Needs& needs, uint32_t images) {
    Worker worker{};
    worker.active.resize(images);
    worker.kept = allocate((needs.rows + 16) * sizeof(uint32_t));
    worker.skipped = allocate((needs.rows + 16) * sizeof(uint32_t));
    worker.blocks = allocate(needs.blocks * (kernels.chunk + 1));
    worker.cells = allocate(kernels.chunk * kernels.rows * needs.cells * sizeof(float) + 64);
    worker.work.active = worker.active.data();
    Scratch& scratch = worker.work.scratch;
    scratch.kept = reinterpret_cast<uint32_t*>(worker.kept.get());
    scratch.skipped = reinterpret_cast<uint32_t*>(worker.skipped.get());
    scratch.blocks = worker.blocks.get();
    scratch.block_bytes = needs.blocks;
    scratch.cells = reinterpret_cast<float*>(worker.cells.get());
    return worker;
}

}  // namespace

Workspace::Workspace(const Program& program, uint32_t count, uint32_t images, char* private_arena, char* group_arena)
    : threads(std::make_unique<ThreadGroup>(count)), seconds(program.steps.size(), 0.0) {
    for (const Buffer& buffer : program.buffers) {
        Map map = buffer.map;
        map.base = (buffer.grouped ? group_arena : private_arena) + buffer.offset;
        map.image_stride = buffer.grouped ? program.slot_bytes : 0;
        maps.push_back(map);
    }
    const Needs needs = needs_of(program, images);
    gates = allocate(needs.gates * sizeof(float) + 64);
    hidden = allocate(needs.hidden * sizeof(float) + 64);
    for (uint32_t index = 0; index < count; ++index) {
        workers.push_back(allocate_worker(*program.kernels, needs, images));
        Work& work = workers.back().work;
        work.maps = maps.data();
        work.gates = reinterpret_cast<float*>(gates.get());
        work.hidden = reinterpret_cast<float*>(hidden.get());
        work.threads = threads.get();
        work.worker = index;
    }
}

void Workspace::prepare(const Batch& batch) {
    std::fill(seconds.begin(), seconds.end(), 0.0);
    for (Worker& worker : workers) worker.work.batch = &batch;
}

Stream::Stream(const Program& program, uint32_t threads)
    : pool(threads, program.kernels->quantised()),
      slots(program.groups() ? std::min(kGroup * threads, kMostImages) : 1),
      group_arena(allocate(slots * program.slot_bytes + 256)) {
    for (uint32_t thread = 0; thread < threads; ++thread) {
        arenas.push_back(allocate(program.private_bytes + 256));
        solo.emplace_back(program, 1, 1, arenas.back().get(), group_arena.get());
    }
    joint = std::make_unique<Workspace>(program, threads, slots, arenas.front().get(), group_arena.get());
}

}  // namespace lccl
