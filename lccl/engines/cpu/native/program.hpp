// A plan for this machine: packed weights, steps, and where each buffer lies. Constant once it is built.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "rounding.hpp"

namespace lccl {

using Step = std::variant<NormaliseStep, ConvolveStep, MaxPoolStep, AveragePoolStep, ExitStep, ClassifyStep>;

struct Uses {  // of buffers by a step
    std::vector<int> reads, writes;
};

struct Buffer {
    std::string name;
    Map map;               // without a base, which each workspace sets
    bool quantised;        // whether it came with a scale and a zero
    int storage;           // the buffer whose memory this is, often itself
    size_t first, last;    // steps that use the storage
    size_t offset = 0;     // bytes, in the private or the group part of an arena
    bool grouped = false;  // held for every image of a group

    bool overlaps(const Buffer& other) const { return first <= other.last && other.first <= last; }
};

struct Banded {  // a convolution that runs together with the pool after it
    ConvolveStep convolve;
    MaxPoolStep pool;
    uint32_t band, ring;  // rows computed at once, and rows held
};

struct GateShape {
    uint32_t maps, height, width;
};

struct Program {
    const Kernels* kernels;
    uint32_t layers, exits, classes;
    std::vector<Buffer> buffers;
    std::vector<Step> steps;
    std::vector<Uses> uses;                     // per step
    std::vector<std::optional<Banded>> banded;  // per step
    std::vector<GateShape> gates;               // per layer
    size_t first_grouped;                       // from this step on images go in groups
    size_t private_bytes, slot_bytes;           // of an arena: for one image, and for each image of a group

    // What the steps point to.
    std::vector<std::vector<float>> floats;
    std::vector<std::vector<int32_t>> integers;
    std::vector<uint8_t> zeros;  // of the image's channels
    std::vector<std::vector<uint32_t>> offsets;
    std::vector<Memory> packed;

    const Buffer& buffer(int number) const { return buffers[static_cast<size_t>(number)]; }
    const Map& map(int number) const { return buffer(number).map; }
    const Map& image() const { return map(std::get<NormaliseStep>(steps.front()).raw); }
    bool groups() const { return first_grouped < steps.size(); }
    size_t element(const Map& map) const { return map.pooled ? sizeof(float) : kernels->element(); }  // bytes
    size_t bytes(const Map& map) const {
        return round_up(size_t{map.height + 2 * map.pad} * map.pitch() * element(map), 64);
    }
};

// Sets the offsets of storages and steps in a program that has all its steps. From the first step on whose weights take
// more than `cache_bytes`, images go in groups; large maps that only a pool reads are made in bands of half of that.
void lay_out(Program& program, size_t cache_bytes);

[[noreturn]] void refuse(const std::string& what);

}  // namespace lccl
