// Quotients and sizes, rounded upwards.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lccl {

static inline uint32_t ceil_div(uint32_t a, uint32_t b) { return (a + b - 1) / b; }
static inline size_t round_up(size_t value, size_t step) { return (value + step - 1) / step * step; }

}  // namespace lccl
