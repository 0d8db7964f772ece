// Weights and tables in the order and precision in which an instruction set reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"

namespace lccl {

struct Filter {  // [out, in, kernel, kernel]
    const float* values;
    uint32_t out, in, kernel;
    const int8_t* integers = nullptr;  // instead of values, in int8

    float at(uint32_t channel, uint32_t row, uint32_t element) const;  // of a kernel row's [kernel, in]
};

struct Packed {
    Memory weights;
    size_t vector_size, group_size;  // elements
};

// A convolution's or a single cell's gate's weights, as tiles read them.
Packed pack(const Kernels& kernels, const Filter& filter, uint32_t groups);

// A classifier's, float32 whatever the precision.
Packed pack_single(const Kernels& kernels, const Filter& filter);

// A gate's weights for dot products along the channels: [map][kernel row][elements, padded with zeros].
Memory pack_dots(const Kernels& kernels, const Filter& filter);

// The normalised value of each pixel: [channels][256].
Memory pixel_table(const Kernels& kernels, const std::vector<float>& mean, const std::vector<float>& std);

}  // namespace lccl
