// Every step of a plan, for any instruction set: what lies above the micro-kernels.
//
// An instruction set is a struct in an unnamed namespace (isa/*.hpp), so that whatever is instantiated for it in
// steps/*.hpp stays in its own file. Each output cell is summed in one order, kernel row by kernel row and channel by
// channel, in its own accumulator: batch mates, tile sizes and thread counts do not change a bit of it. In int8,
// whose sums are exact, the instruction set does not either.
#pragma once

#include "kernels.hpp"
#include "steps/convolve.hpp"
#include "steps/linear.hpp"
#include "steps/normalise.hpp"
#include "steps/pools.hpp"

namespace lccl {

template <class Isa>
static constexpr Kernels kernels_of(const char* name, Precision precision) {
    Kernels kernels{};
    kernels.name = name;
    kernels.precision = precision;
    kernels.lanes = Isa::lanes;
    kernels.panel = Isa::panel;
    kernels.single_panel = Isa::Float::panel;
    kernels.rows = Isa::rows;
    kernels.k_step = Isa::k_step;
    kernels.k_block = Isa::k_block;
    kernels.dot_step = Isa::dot_step;
    kernels.chunk = Isa::chunk;
    kernels.taken_off = Isa::taken_off;
    kernels.packed_bytes = Isa::packed_bytes;
    kernels.normalise = &Normalise<Isa>::run;
    kernels.convolve = &Convolve<Isa>::run;
    kernels.convolve_and_pool = &Convolve<Isa>::run_and_pool;
    kernels.max_pool = &Pools<Isa>::max;
    kernels.average_pool = &Pools<Isa>::average;
    kernels.classify = &LinearLayers<Isa>::classify;
    kernels.answer = &LinearLayers<Isa>::answer;
    return kernels;
}

}  // namespace lccl
