// A map's memory as an instruction set sees it: elements, zeros, borders.
#pragma once

#include <cstring>

#include "../kernels.hpp"

namespace lccl {

template <class Isa>
static inline typename Isa::Element* at(const Work& work, int buffer, uint32_t image) {
    return reinterpret_cast<typename Isa::Element*>(work.at(buffer, image));
}

// To zeros, or to the element of int8 that stands for 0.
template <class Isa>
static inline void clear(typename Isa::Element* target, size_t count, uint8_t zero) {
    if constexpr (Isa::quantised) {
        std::memset(target, zero, count);
    } else {
        size_t i = 0;
        for (; i + Isa::lanes <= count; i += Isa::lanes) Isa::store(target + i, Isa::zero());
        if (i < count) Isa::store_n(target + i, Isa::zero(), static_cast<int>(count - i));
    }
}

template <class Isa>
static inline void clear_border(const Work& work, int buffer, uint32_t image) {
    const Map& map = work.maps[buffer];
    if (!map.pad) return;
    typename Isa::Element* base = at<Isa>(work, buffer, image);
    const size_t pitch = map.pitch(), side = size_t{map.pad} * map.channels;
    const size_t last = (map.pad + map.height) * pitch;
    clear<Isa>(base, map.pad * pitch + side, map.zero);
    for (uint32_t y = 1; y < map.height; ++y) clear<Isa>(base + (map.pad + y) * pitch - side, 2 * side, map.zero);
    clear<Isa>(base + last - side, map.pad * pitch + side, map.zero);
}

}  // namespace lccl
