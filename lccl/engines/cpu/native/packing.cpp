#include "packing.hpp"

#include <algorithm>

#include "elements.hpp"
#include "rounding.hpp"

namespace lccl {

namespace {

struct Order {
    uint32_t lanes, panel, step, block;
    size_t element;  // bytes
};

// [group][panel][kernel row][elements / step][vector][lane][step], zeros in gaps.
Packed pack_in(const Order& order, const Filter& filter, uint32_t groups) {
    const auto [lanes, width, step, block, element] = order;
    const uint32_t share = filter.out / groups, vectors = ceil_div(share, lanes), run = filter.kernel * filter.in;
    const uint32_t pairs = ceil_div(run, step);
    const size_t vector_size = round_up(size_t{filter.kernel} * pairs, block) * step * lanes;
    const size_t group_size = vectors * vector_size;
    Packed packed{allocate(groups * group_size * element + 64), vector_size, group_size};
    for (uint32_t channel = 0; channel < filter.out; ++channel) {
        const uint32_t group = channel / share, vector = channel % share / lanes, lane = channel % share % lanes;
        const uint32_t first = vector / width * width, taken = std::min(width, vectors - first);
        const size_t panel = group * group_size + first * vector_size;
        for (uint32_t r = 0; r < filter.kernel; ++r) {
            for (uint32_t e = 0; e < run; ++e) {
                const size_t k = size_t{r} * pairs + e / step;
                put(packed.weights.get(), panel + ((k * taken + (vector - first)) * lanes + lane) * step + e % step,
                    element, filter.at(channel, r, e));
            }
        }
    }
    return packed;
}

}  // namespace

float Filter::at(uint32_t channel, uint32_t row, uint32_t element) const {
    const uint32_t x = element / in, c = element % in;
    const size_t index = ((size_t{channel} * in + c) * kernel + row) * kernel + x;
    return integers ? static_cast<float>(integers[index]) : values[index];
}

Packed pack(const Kernels& kernels, const Filter& filter, uint32_t groups) {
    return pack_in({kernels.lanes, kernels.panel, kernels.k_step, kernels.k_block, kernels.element()}, filter, groups);
}

Packed pack_single(const Kernels& kernels, const Filter& filter) {
    return pack_in({kernels.lanes, kernels.single_panel, 1, 1, sizeof(float)}, filter, 1);
}

Memory pack_dots(const Kernels& kernels, const Filter& filter) {
    return pack_in({1, 1, kernels.dot_step, 1, kernels.element()}, filter, 1).weights;
}

Memory pixel_table(const Kernels& kernels, const std::vector<float>& mean, const std::vector<float>& std) {
    Memory table = allocate(mean.size() * 256 * kernels.element());
    for (size_t c = 0; c < mean.size(); ++c) {
        for (uint32_t pixel = 0; pixel < 256; ++pixel) {
            const float value = (static_cast<float>(pixel) / 255.0f - mean[c]) / std[c];
            put(table.get(), c * 256 + pixel, kernels.element(), value);
        }
    }
    return table;
}

}  // namespace lccl
