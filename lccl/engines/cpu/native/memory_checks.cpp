// Checks the memory that plan/memory assigned: a plan that breaks these rules could read or write foreign memory.
#include <algorithm>

#include "builder.hpp"

namespace lccl {

namespace {

// When a buffer itself is used, by step; its storage may be in use for longer.
struct Span {
    size_t written, last;
};

std::vector<Span> spans_of(const Program& program) {
    std::vector<Span> spans(program.buffers.size(), {program.steps.size(), 0});
    for (size_t number = 0; number < program.steps.size(); ++number) {
        const auto use = [&](int buffer, size_t at) {
            Span& span = spans[static_cast<size_t>(buffer)];
            span.last = std::max(span.last, at);
        };
        for (const int buffer : program.uses[number].writes) {
            spans[static_cast<size_t>(buffer)].written = number;
            use(buffer, number);
        }
        for (const int buffer : program.uses[number].reads) use(buffer, number);
        const auto* convolve = std::get_if<ConvolveStep>(&program.steps[number]);
        if (convolve && convolve->pooled_alone) use(convolve->input, number + 1);  // they run together
    }
    return spans;
}

void check_buffer(const Program& program, const Buffer& buffer, const Span& span) {
    const Buffer& storage = program.buffer(buffer.storage);
    const Map &map = buffer.map, &other = storage.map;
    if (storage.storage != buffer.storage) refuse("a buffer's storage lies in another storage");
    if (map.channels != other.channels || map.height != other.height || map.width != other.width ||
        map.pooled != other.pooled || map.pad != other.pad) {
        refuse("buffers of one storage have the same shape, border and element type");
    }
    if (map.scale != other.scale || map.zero != other.zero) refuse("buffers of one storage have the same quantum");
    if (buffer.first != storage.first || buffer.last != storage.last) {
        refuse("buffers of one storage have the same lifetime");
    }
    if (span.written == program.steps.size()) refuse("a buffer is written by no step");
    if (span.written < buffer.first || span.last > buffer.last) refuse("a step uses a buffer outside its lifetime");
}

int output_of(const ConvolveStep& step) { return step.raw != kNone ? step.raw : step.activated; }

// One buffer of a storage is done before the next is written, or is the residual that its step adds to.
void check_turns(const Program& program, const std::vector<Span>& spans, size_t before, size_t after) {
    const size_t written = spans[after].written;
    if (spans[before].last < written) return;
    const auto* step = std::get_if<ConvolveStep>(&program.steps[written]);
    if (spans[before].last > written || !step || !step->in_place || step->residual != static_cast<int>(before) ||
        output_of(*step) != static_cast<int>(after)) {
        refuse("a step writes a storage that holds what is still read");
    }
}

void check_in_place(const Program& program, const ConvolveStep& step) {
    if (step.residual == kNone || step.residual_stride != 1 ||
        program.buffer(step.residual).storage != program.buffer(output_of(step)).storage) {
        refuse("an in-place step's output lies in the storage of its residual");
    }
    if (step.residual == step.input || (step.gate.layer != kNone && step.residual == step.gate.input)) {
        refuse("an in-place step does not read its residual by windows");
    }
    if (step.residual_scale != 1.0f) refuse("an in-place step's residual is in units of its value");
    if (step.raw == kNone && step.activated_scale) refuse("an in-place step's skipped cells hold its residual");
}

void check_window(const Program& program, int buffer, uint32_t kernel) {
    if (program.map(buffer).pad < kernel / 2) refuse("a border is narrower than a window that reads it needs");
}

void check_pooled_alone(const Program& program, size_t number) {
    const ConvolveStep& step = std::get<ConvolveStep>(program.steps[number]);
    const auto* pool = std::get_if<MaxPoolStep>(&program.steps[number + 1]);
    ptrdiff_t readers = 0;
    for (const Uses& uses : program.uses) readers += std::count(uses.reads.begin(), uses.reads.end(), step.raw);
    if (!pool || pool->input != step.raw || readers != 1 || step.activated != kNone || step.residual != kNone ||
        step.gate.layer != kNone) {
        refuse("a convolution that is pooled alone only feeds the max-pool after it");
    }
}

}  // namespace

void check_memory(const Program& program) {
    const std::vector<Span> spans = spans_of(program);
    for (size_t number = 0; number < program.buffers.size(); ++number) {
        check_buffer(program, program.buffers[number], spans[number]);
    }
    for (size_t number = 0; number < program.buffers.size(); ++number) {
        for (size_t other = 0; other < program.buffers.size(); ++other) {
            const bool shared = program.buffers[other].storage == program.buffers[number].storage;
            if (!shared || other == number || spans[other].written > spans[number].written) continue;
            check_turns(program, spans, other, number);
        }
    }
    for (size_t number = 0; number < program.steps.size(); ++number) {
        const auto* step = std::get_if<ConvolveStep>(&program.steps[number]);
        if (!step) continue;
        check_window(program, step->input, step->runs);
        if (step->gate.layer != kNone) check_window(program, step->gate.input, step->gate.runs);
        if (step->in_place) check_in_place(program, *step);
        if (step->pooled_alone) check_pooled_alone(program, number);
    }
}

}  // namespace lccl
