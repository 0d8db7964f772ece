// From pixels or float32 values to the first map.
#pragma once

#include <cstring>

#include "../kernels.hpp"
#include "maps.hpp"
#include "parts.hpp"

namespace lccl {

template <class Isa>
struct Normalise {
    using Element = typename Isa::Element;
    using Float = typename Isa::Float;

    static void run(const NormaliseStep& step, Work& work) {
        const Map& map = work.maps[step.raw];
        const uint32_t row = map.width * map.channels;
        const uint32_t parts = tasks_for(map.height * work.count, *work.threads, 16);
        work.threads->share(work.round, work.worker, parts, [&](uint32_t part) {
            const uint32_t units = map.height * work.count;
            for (uint32_t unit = cut(units, part, parts); unit < cut(units, part + 1, parts); ++unit) {
                const uint32_t image = unit / map.height, y = unit % map.height;
                if (!y) clear_border_of(step, work, image);
                Element* target =
                    at<Isa>(work, step.raw, image) + (map.pad + y) * map.pitch() + size_t{map.pad} * map.channels;
                const size_t source = (work.number(image) * map.height + y) * row;
                if (work.batch->pixels && Isa::quantised) {
                    std::memcpy(target, static_cast<const uint8_t*>(work.batch->images) + source, row);
                } else if (work.batch->pixels) {
                    look_up(static_cast<const uint8_t*>(work.batch->images) + source, map, step, target);
                } else {
                    const float* values = static_cast<const float*>(work.batch->images) + source;
                    if constexpr (Isa::quantised) {
                        to_pixels(values, map, step, target);
                    } else {
                        copy_floats(values, row, target);
                    }
                }
            }
        });
    }

    static void look_up(const uint8_t* pixels, const Map& map, const NormaliseStep& step, Element* target) {
        const Element* table = static_cast<const Element*>(step.table);
        const uint32_t channels = map.channels;
        for (uint32_t x = 0; x < map.width; ++x) {
            for (uint32_t c = 0; c < channels; ++c) target[c] = table[c * 256 + pixels[c]];
            target += channels;
            pixels += channels;
        }
    }

    // In int8 a border pixel has a value per channel.
    static void clear_border_of(const NormaliseStep& step, const Work& work, uint32_t image) {
        if constexpr (Isa::quantised) {
            const Map& map = work.maps[step.raw];
            Element* target = at<Isa>(work, step.raw, image);
            const uint32_t width = map.width + 2 * map.pad;
            for (uint32_t y = 0; y < map.height + 2 * map.pad; ++y) {
                const bool inside = y >= map.pad && y < map.pad + map.height;
                for (uint32_t x = 0; x < width; ++x) {
                    if (inside && x == map.pad) x += map.width;
                    if (x == width) break;
                    for (uint32_t c = 0; c < map.channels; ++c) target[x * map.channels + c] = step.zero[c];
                }
                target += map.pitch();
            }
        } else {
            clear_border<Isa>(work, step.raw, image);
        }
    }

    static void to_pixels(const float* values, const Map& map, const NormaliseStep& step, uint8_t* target) {
        for (uint32_t x = 0; x < map.width; ++x) {
            for (uint32_t c = 0; c < map.channels; ++c) {
                const float pixel = __builtin_nearbyintf(*values++ * step.scale[c] + step.shift[c]);
                *target++ = static_cast<uint8_t>(pixel > 0.0f ? pixel < 255.0f ? pixel : 255.0f : 0.0f);
            }
        }
    }

    static void copy_floats(const float* source, uint32_t count, Element* target) {
        for (uint32_t i = 0; i < count; i += Isa::lanes) {
            const int n = static_cast<int>(smaller(Isa::lanes, count - i));
            Isa::store_n(target + i, Float::load_n(source + i, n), n);
        }
    }
};

}  // namespace lccl
