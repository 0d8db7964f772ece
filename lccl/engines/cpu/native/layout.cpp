// Where a program's buffers lie on this machine: offsets in an arena, groups of images, and maps made in bands.
#include <algorithm>

#include "program.hpp"

namespace lccl {

namespace {

// Elements from a map's start to the first tap of each output position's window.
// With a ring, row y of the map lies at y modulo `ring`.
const uint32_t* window_offsets(Program& program, const Map& map, uint32_t kernel, uint32_t stride, const Map& out,
                               uint32_t ring = 0) {
    std::vector<uint32_t> table(size_t{out.height} * out.width);
    const uint32_t border = map.pad - kernel / 2;
    for (uint32_t y = 0; y < out.height; ++y) {
        for (uint32_t x = 0; x < out.width; ++x) {
            const uint32_t row = border + (ring ? y % ring : y) * stride;
            table[size_t{y} * out.width + x] = row * map.pitch() + (border + x * stride) * map.channels;
        }
    }
    for (const auto& other : program.offsets) {
        if (other == table) return other.data();
    }
    program.offsets.push_back(std::move(table));
    return program.offsets.back().data();
}

void set_window_offsets(Program& program, ConvolveStep& step) {
    const Map& out = program.map(step.raw != kNone ? step.raw : step.activated);
    const auto offsets = [&](int buffer, uint32_t kernel, uint32_t stride) {
        return buffer == kNone ? nullptr : window_offsets(program, program.map(buffer), kernel, stride, out);
    };
    step.offset = offsets(step.input, step.runs, step.stride);
    step.raw_offset = offsets(step.raw, 1, 1);
    step.activated_offset = offsets(step.activated, 1, 1);
    step.residual_offset = offsets(step.residual, 1, step.residual_stride);
    if (step.gate.layer != kNone) step.gate.offset = offsets(step.gate.input, step.gate.runs, step.stride);
}

// Offsets of storages that are in use at the same time do not overlap.
void set_storage_offsets(Program& program) {
    std::vector<const Buffer*> placed;
    for (size_t number = 0; number < program.buffers.size(); ++number) {
        Buffer& buffer = program.buffers[number];
        buffer.grouped = buffer.last >= program.first_grouped;
        if (static_cast<size_t>(buffer.storage) != number) continue;
        const size_t size = program.bytes(buffer.map) + 64;
        for (bool moved = true; moved;) {
            moved = false;
            for (const Buffer* other : placed) {
                const size_t end = other->offset + program.bytes(other->map) + 64;
                if (other->grouped == buffer.grouped && other->overlaps(buffer) &&
                    other->offset < buffer.offset + size && buffer.offset < end) {
                    buffer.offset = end;
                    moved = true;
                }
            }
        }
        placed.push_back(&buffer);
        size_t& total = buffer.grouped ? program.slot_bytes : program.private_bytes;
        total = std::max(total, buffer.offset + size);
    }
    for (Buffer& buffer : program.buffers) buffer.offset = program.buffer(buffer.storage).offset;
    program.private_bytes = round_up(program.private_bytes, 4096);
    // Not a power of two apart, so that the same buffer of several images falls into different cache sets.
    program.slot_bytes = program.slot_bytes ? round_up(program.slot_bytes, 4096) + 320 : 0;
}

// A large map that only a pool reads is made and pooled in bands that the second-level cache holds.
void set_bands(Program& program, size_t cache_bytes) {
    program.banded.resize(program.steps.size());
    for (size_t number = 0; number + 1 < program.first_grouped; ++number) {
        const auto* convolve = std::get_if<ConvolveStep>(&program.steps[number]);
        if (!convolve || !convolve->pooled_alone) continue;
        const MaxPoolStep& pool = std::get<MaxPoolStep>(program.steps[number + 1]);
        const Map& map = program.map(convolve->raw);
        if (map.pad || program.bytes(map) <= cache_bytes / 2) continue;
        const size_t held = cache_bytes / 2 / (program.bytes(map) / map.height);  // rows
        const uint32_t least = pool.kernel + 2 * pool.stride;
        const uint32_t ring = std::max(least, static_cast<uint32_t>(std::min<size_t>(held, map.height)));
        if (ring >= map.height) continue;
        ConvolveStep in_ring = *convolve;
        in_ring.raw_offset = window_offsets(program, map, 1, 1, map, ring);
        program.banded[number] = Banded{in_ring, pool, ring - pool.kernel, ring};
    }
}

}  // namespace

void lay_out(Program& program, size_t cache_bytes) {
    const auto heavy = [](const Step& step) {
        const auto* convolve = std::get_if<ConvolveStep>(&step);
        return convolve && convolve->heavy;
    };
    const auto first = std::find_if(program.steps.begin(), program.steps.end(), heavy);
    program.first_grouped = static_cast<size_t>(first - program.steps.begin());
    for (Step& step : program.steps) {
        if (auto* convolve = std::get_if<ConvolveStep>(&step)) set_window_offsets(program, *convolve);
    }
    set_storage_offsets(program);
    set_bands(program, cache_bytes);
}

}  // namespace lccl
