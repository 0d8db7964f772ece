#include "executor.hpp"

#include <atomic>
#include <chrono>
#include <cmath>
#include <stdexcept>

namespace lccl {

namespace {

// The largest value of softmax(logits); NaN, which lies above nothing, where a logit is NaN or the largest is infinite.
// In float64 for int8, whose answers are the same everywhere.
template <class Real>
Real confidence(const float* logits, uint32_t classes) {
    const Real largest = *std::max_element(logits, logits + classes);
    Real sum = 0;
    for (uint32_t c = 0; c < classes; ++c) sum += std::exp(logits[c] - largest);
    return 1 / sum;
}

// An image leaves where the exit's confidence lies above its own limit. A worker may still read `exit_index` here while
// others go on: they wait for it in the next step before they write it again.
template <class Real>
void end_runs(const ExitStep& step, uint32_t classes, Work& work) {
    const Batch& batch = *work.batch;
    work.threads->share(work.round, work.worker, work.count, [&](uint32_t image) {
        const size_t number = work.number(image);
        const Real reached = confidence<Real>(batch.logits + number * classes, classes);
        if (reached > batch.exit_confidence[number * batch.exits + step.exit]) batch.exit_index[number] = step.exit;
    });
    Active* const end = std::remove_if(work.active, work.active + work.count, [&](const Active& image) {
        return batch.exit_index[image.number] != batch.exits;
    });
    work.count = static_cast<uint32_t>(end - work.active);
}

struct RunStep {
    const Program& program;
    Work& work;

    void operator()(const NormaliseStep& step) const { program.kernels->normalise(step, work); }
    void operator()(const ConvolveStep& step) const { program.kernels->convolve(step, work); }
    void operator()(const MaxPoolStep& step) const { program.kernels->max_pool(step, work); }
    void operator()(const AveragePoolStep& step) const { program.kernels->average_pool(step, work); }
    void operator()(const ClassifyStep& step) const { program.kernels->classify(step, work); }
    void operator()(const ExitStep& step) const {
        program.kernels->answer(step, work);
        const auto end = program.kernels->quantised() ? &end_runs<double> : &end_runs<float>;
        end(step, program.classes, work);
    }
};

}  // namespace

void run_step(const Program& program, const Step& step, Work& work) { std::visit(RunStep{program, work}, step); }

void clear(const Program& program, const Batch& batch) {
    std::fill(batch.kept, batch.kept + size_t{batch.count} * batch.layers, int64_t{0});
    std::fill(batch.executed, batch.executed + batch.count, int64_t{0});
    if (batch.exit_index) std::fill(batch.exit_index, batch.exit_index + batch.count, int64_t{batch.exits});
    for (size_t layer = 0; batch.exits && batch.masks && layer < batch.layers; ++layer) {
        const auto [maps, height, width] = program.gates[layer];
        std::fill(batch.masks[layer], batch.masks[layer] + size_t{batch.count} * maps * height * width, uint8_t{0});
    }
}

Executor::Executor(std::unique_ptr<const Program> program, uint32_t threads, uint32_t streams)
    : program_(std::move(program)) {
    if (!streams || streams > threads) refuse("there is at least one stream, and a thread for each");
    streams_.push_back(std::make_unique<Stream>(*program_, threads));
    for (uint32_t number = 0; streams > 1 && number < streams; ++number) {
        streams_.push_back(std::make_unique<Stream>(*program_, threads / streams));
    }
}

Executor::~Executor() {
    // In a forked child the threads are missing and what they wait on can be neither joined nor destroyed.
    if (!whole().pool.forked()) return;
    for (auto& stream : streams_) static_cast<void>(stream.release());
}

void Executor::check_process() const {
    if (whole().pool.forked()) {
        throw std::runtime_error("this engine's threads stayed in the process that made it: make one after forking");
    }
}

void Executor::run(const Batch& batch, bool sharing) {
    check_process();  // before the lock, which another thread may have held at the fork
    const auto [stream, held] = take_stream(sharing);
    run_in(*stream, batch);
}

// A stream in which no batch runs, once there is one.
std::pair<Stream*, std::unique_lock<std::mutex>> Executor::take_stream(bool sharing) const {
    if (!sharing || streams_.size() == 1) return {&whole(), std::unique_lock(whole().running)};
    for (size_t number = 1; number < streams_.size(); ++number) {
        std::unique_lock held(streams_[number]->running, std::try_to_lock);
        if (held) return {streams_[number].get(), std::move(held)};
    }
    return {streams_.back().get(), std::unique_lock(streams_.back()->running)};
}

void Executor::run_in(Stream& stream, const Batch& batch) const {
    const uint32_t threads = stream.pool.size();
    const size_t grouped = program_->first_grouped, steps = program_->steps.size();
    const bool groups = program_->groups();
    clear(*program_, batch);
    for (Workspace& workspace : stream.solo) workspace.prepare(batch);
    Workspace& joint = *stream.joint;
    joint.prepare(batch);
    for (uint32_t done = 0, taken; done < batch.count; done += taken) {
        taken = groups ? std::min(stream.slots, batch.count - done) : batch.count;
        const uint32_t alone = taken / threads * threads;  // images that each have a thread to themselves
        std::atomic<uint32_t> next{0};
        stream.pool.run([&](uint32_t thread) {
            for (uint32_t image; (image = next.fetch_add(1)) < alone;) {
                run_steps(stream.solo[thread], 0, 0, grouped, image, done + image, 1);
            }
            if (alone == taken && !groups) return;
            joint.threads->wait();
            for (uint32_t image = alone; image < taken; ++image) {
                run_steps(joint, thread, 0, grouped, image, done + image, 1);
            }
            if (groups) run_steps(joint, thread, grouped, steps, 0, done, taken);
        });
    }
    for (size_t number = 0; batch.seconds && number < steps; ++number) {
        batch.seconds[number] = joint.seconds[number];
        for (const Workspace& solo : stream.solo) batch.seconds[number] += solo.seconds[number] / threads;
    }
}

// Steps [from, to) for those of images [first, first + count) of the batch that have not left, in slots [slot, …).
void Executor::run_steps(Workspace& workspace, uint32_t worker, size_t from, size_t to, uint32_t slot, uint32_t first,
                         uint32_t count) const {
    using Clock = std::chrono::steady_clock;
    Work& work = workspace.workers[worker].work;
    const Batch& batch = *work.batch;
    work.count = 0;
    for (uint32_t image = 0; image < count; ++image) {
        if (batch.exit_index[first + image] == batch.exits) work.active[work.count++] = {slot + image, first + image};
    }
    for (size_t number = from; number < to && work.count; ++number) {
        const auto before = batch.seconds ? Clock::now() : Clock::time_point{};
        const size_t step = number;
        if (const auto& both = program_->banded[number]) {
            program_->kernels->convolve_and_pool(both->convolve, both->pool, both->band, both->ring, work);
            ++number;
        } else {
            run_step(*program_, program_->steps[number], work);
        }
        if (batch.seconds && !worker) {
            workspace.seconds[step] += std::chrono::duration<double>(Clock::now() - before).count();
        }
    }
}

}  // namespace lccl
