// How a step's work is cut into parts for a group of threads to share.
#pragma once

#include <cstdint>

#include "../rounding.hpp"
#include "../thread_group.hpp"

namespace lccl {

static inline uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }

// How many parts so many units make with at least `least` in each. One thread takes all of them.
static inline uint32_t tasks_for(uint32_t units, const ThreadGroup& threads, uint32_t least) {
    if (threads.size() == 1) return 1;
    return smaller(ceil_div(units, least), threads.size() * 64);
}

// The first unit of a part.
static inline uint32_t cut(uint32_t units, uint32_t part, uint32_t parts) {
    return static_cast<uint32_t>(uint64_t{units} * part / parts);
}

// The same, rounded upwards: parts from cut() to here overlap where they do not come out even.
static inline uint32_t cut_up(uint32_t units, uint32_t part, uint32_t parts) {
    return static_cast<uint32_t>((uint64_t{units} * part + parts - 1) / parts);
}

}  // namespace lccl
