// Runs batches: what each thread needs for itself, and who works on which images.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <stdexcept>

#include "program.hpp"
#include "rounding.hpp"

namespace lccl {

namespace {

// The largest value of softmax(logits); NaN, which lies above nothing, where a logit is NaN or the largest is infinite.
float confidence(const float* logits, uint32_t classes) {
    const float largest = *std::max_element(logits, logits + classes);
    float sum = 0.0f;
    for (uint32_t c = 0; c < classes; ++c) sum += std::exp(logits[c] - largest);
    return 1.0f / sum;
}

}  // namespace

// ---- crews

Program::Needs Program::needs(uint32_t slots) const {
    Needs needs{};
    needs.images = slots;
    for (size_t number = 0; number < steps_.size(); ++number) {
        const size_t images = number >= first_grouped_ ? slots : 1;
        if (const auto* exit = std::get_if<ExitStep>(&steps_[number])) {
            needs.hidden = std::max(needs.hidden, images * exit->hidden.out);
        }
        const auto* step = std::get_if<ConvolveStep>(&steps_[number]);
        if (!step) continue;
        const GateSpec& gate = step->gate;
        needs.rows = std::max(needs.rows, images * step->positions);
        needs.gates = std::max(needs.gates, images * step->positions * gate.groups);
        if (gate.layer != kNone && gate.per_cell) {
            needs.cells = std::max(needs.cells, round_up(gate.groups, kernels_.lanes));
        }
        if (!kernels_.packed_bytes) continue;
        const size_t k = round_up(size_t{step->runs} * round_up(step->run, kernels_.k_step), 64);
        const size_t gate_k = round_up(size_t{gate.runs} * round_up(gate.run, kernels_.k_step), 64);
        needs.blocks = std::max(needs.blocks, (std::max(k, gate_k) * kernels_.packed_bytes + 64) * kernels_.rows);
    }
    return needs;
}

Program::Member Program::member(const Needs& needs) const {
    Member member;
    member.active.resize(needs.images);
    member.kept = allocate((needs.rows + 16) * sizeof(uint32_t));
    member.skipped = allocate((needs.rows + 16) * sizeof(uint32_t));
    member.blocks = allocate(needs.blocks * (kernels_.chunk + 1));
    member.cells = allocate(kernels_.chunk * kernels_.rows * needs.cells * sizeof(float) + 64);
    member.work = Work{};
    member.work.active = member.active.data();
    member.work.layers = layers_;
    member.work.exits = exits();
    Scratch& scratch = member.work.scratch;
    scratch.kept = reinterpret_cast<uint32_t*>(member.kept.get());
    scratch.skipped = reinterpret_cast<uint32_t*>(member.skipped.get());
    scratch.blocks = member.blocks.get();
    scratch.block_bytes = needs.blocks;
    scratch.cells = reinterpret_cast<float*>(member.cells.get());
    return member;
}

Program::Crew Program::crew(const Stream& stream, uint32_t size, char* arena, uint32_t slots) const {
    Crew crew;
    crew.team = std::make_unique<Team>(size);
    crew.maps = maps_;
    crew.seconds.assign(steps_.size(), 0.0);
    for (size_t number = 0; number < maps_.size(); ++number) {
        crew.maps[number].base = (grouped_[number] ? stream.group_arena.get() : arena) + offset_[number];
        crew.maps[number].image_stride = grouped_[number] ? slot_bytes_ : 0;
    }
    const Needs most = needs(slots);
    crew.gates = allocate(most.gates * sizeof(float) + 64);
    crew.hidden = allocate(most.hidden * sizeof(float) + 64);
    for (uint32_t index = 0; index < size; ++index) {
        crew.members.push_back(member(most));
        Work& work = crew.members.back().work;
        work.gates = reinterpret_cast<float*>(crew.gates.get());
        work.hidden = reinterpret_cast<float*>(crew.hidden.get());
        work.team = crew.team.get();
        work.member = index;
    }
    return crew;
}

void Program::furnish(Stream& stream) const {
    const uint32_t threads = stream.pool->size();
    stream.slots = groups() ? std::min(kGroup * threads, kMostImages) : 1;
    stream.group_arena = allocate(stream.slots * slot_bytes_ + 256);
    for (uint32_t thread = 0; thread < threads; ++thread) {
        stream.arenas.push_back(allocate(private_bytes_ + 256));
        stream.solo.push_back(crew(stream, 1, stream.arenas[thread].get(), 1));
    }
    stream.joint = crew(stream, threads, stream.arenas[0].get(), stream.slots);
}

void Program::prepare(Crew& crew, const Batch& batch) const {
    std::fill(crew.seconds.begin(), crew.seconds.end(), 0.0);
    for (Member& member : crew.members) {
        Work& work = member.work;
        work.maps = crew.maps.data();
        work.images = batch.images;
        work.pixels = batch.pixels;
        work.thresholds = batch.thresholds;
        work.norm_set = batch.norm_set;
        work.exit_confidence = batch.exit_confidence;
        work.forced = batch.forced;
        work.masks = batch.masks;
        work.logits = batch.logits;
        work.kept = batch.kept;
        work.executed = batch.executed;
        work.exit = batch.exit;
    }
}

// ---- steps

void Program::run_one(const Step& step, Work& work) const {
    if (const auto* convolve = std::get_if<ConvolveStep>(&step)) {
        kernels_.convolve(*convolve, work);
    } else if (const auto* normalise = std::get_if<NormaliseStep>(&step)) {
        kernels_.normalise(*normalise, work);
    } else if (const auto* max_pool = std::get_if<MaxPoolStep>(&step)) {
        kernels_.max_pool(*max_pool, work);
    } else if (const auto* average_pool = std::get_if<AveragePoolStep>(&step)) {
        kernels_.average_pool(*average_pool, work);
    } else if (const auto* exit = std::get_if<ExitStep>(&step)) {
        kernels_.answer(*exit, work);
        end_runs(*exit, work);
    } else if (const auto* classify = std::get_if<ClassifyStep>(&step)) {
        kernels_.classify(*classify, work);
    }
}

// Images that are sure leave. A member may still read `exit` here while others go on: they wait for it in the next step
// before they write it again.
void Program::end_runs(const ExitStep& step, Work& work) const {
    work.team->share(work.round, work.member, work.count, [&](uint32_t image) {
        const size_t number = work.number(image);
        const float sure = confidence(work.logits + number * classes_, classes_);
        if (sure > work.exit_confidence[number * work.exits + step.exit]) work.exit[number] = step.exit;
    });
    Active* const end = std::remove_if(work.active, work.active + work.count,
                                       [&](const Active& image) { return work.exit[image.number] != work.exits; });
    work.count = static_cast<uint32_t>(end - work.active);
}

// Steps [from, to) for those of images [first, first + count) of the batch that have not left, at places [slot, …).
void Program::run_steps(Crew& crew, bool timed, uint32_t member, size_t from, size_t to, uint32_t slot, uint32_t first,
                        uint32_t count) const {
    using Clock = std::chrono::steady_clock;
    Work& work = crew.members[member].work;
    work.count = 0;
    for (uint32_t image = 0; image < count; ++image) {
        if (work.exit[first + image] == work.exits) work.active[work.count++] = {slot + image, first + image};
    }
    for (size_t number = from; number < to && work.count; ++number) {
        const auto before = timed ? Clock::now() : Clock::time_point{};
        const size_t step = number;
        if (const auto& both = banded_[number]) {
            kernels_.convolve_and_pool(both->convolve, both->pool, both->band, both->ring, work);
            ++number;
        } else {
            run_one(steps_[number], work);
        }
        if (timed && !member) crew.seconds[step] += std::chrono::duration<double>(Clock::now() - before).count();
    }
}

// ---- batches

void Program::check_process() const {
    if (whole().pool->forked()) {
        throw std::runtime_error("this engine's threads stayed in the process that made it: make one after forking");
    }
}

void Program::clear_counts(const Batch& batch) const {
    std::fill(batch.kept, batch.kept + size_t{batch.count} * layers_, int64_t{0});
    std::fill(batch.executed, batch.executed + batch.count, int64_t{0});
}

// Nobody has left; masks of layers that an image never comes to hold zeros.
void Program::clear_exits(const Batch& batch) const {
    std::fill(batch.exit, batch.exit + batch.count, int64_t{exits()});
    for (size_t layer = 0; exits() && batch.masks && layer < layers_; ++layer) {
        const auto [maps, positions] = gate_shapes_[layer];
        std::fill(batch.masks[layer], batch.masks[layer] + size_t{batch.count} * maps * positions, uint8_t{0});
    }
}

void Program::run(const Batch& batch, bool sharing) {
    check_process();  // before the lock, which another thread may have held at the fork
    const auto [stream, held] = take_stream(sharing);
    run_in(*stream, batch);
}

// A stream that nobody runs in, once there is one.
std::pair<Program::Stream*, std::unique_lock<std::mutex>> Program::take_stream(bool sharing) const {
    if (!sharing || streams_.size() == 1) return {&whole(), std::unique_lock(whole().running)};
    for (size_t number = 1; number < streams_.size(); ++number) {
        std::unique_lock held(streams_[number]->running, std::try_to_lock);
        if (held) return {streams_[number].get(), std::move(held)};
    }
    return {streams_.back().get(), std::unique_lock(streams_.back()->running)};
}

void Program::run_in(Stream& stream, const Batch& batch) const {
    const uint32_t threads = stream.pool->size();
    const bool timed = batch.seconds;
    clear_counts(batch);
    clear_exits(batch);
    for (Crew& crew : stream.solo) prepare(crew, batch);
    prepare(stream.joint, batch);
    for (uint32_t done = 0, taken; done < batch.count; done += taken) {
        taken = groups() ? std::min(stream.slots, batch.count - done) : batch.count;
        const uint32_t alone = taken / threads * threads;  // images that each have a thread to themselves
        std::atomic<uint32_t> next{0};
        stream.pool->run([&](uint32_t thread) {
            for (uint32_t image; (image = next.fetch_add(1)) < alone;) {
                run_steps(stream.solo[thread], timed, 0, 0, first_grouped_, image, done + image, 1);
            }
            if (alone == taken && !groups()) return;
            stream.joint.team->wait();
            for (uint32_t image = alone; image < taken; ++image) {
                run_steps(stream.joint, timed, thread, 0, first_grouped_, image, done + image, 1);
            }
            if (groups()) run_steps(stream.joint, timed, thread, first_grouped_, steps_.size(), 0, done, taken);
        });
    }
    if (!timed) return;
    for (size_t number = 0; number < steps_.size(); ++number) {
        batch.seconds[number] = stream.joint.seconds[number];
        for (const Crew& crew : stream.solo) batch.seconds[number] += crew.seconds[number] / threads;
    }
}

}  // namespace lccl
