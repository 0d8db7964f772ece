// Max pools and average pools.
#pragma once

#include "../kernels.hpp"
#include "maps.hpp"
#include "parts.hpp"
#include "values.hpp"

namespace lccl {

template <class Isa>
struct Pools {
    using Element = typename Isa::Element;
    using Vector = typename Isa::Vector;
    using Value = Values<Isa>;
    static constexpr uint32_t lanes = Isa::lanes;

    static void max(const MaxPoolStep& step, Work& work) {
        const Map &in = work.maps[step.input], &out = work.maps[step.raw];
        rows(step, work, 0, out.height, in.height);
    }

    // Rows [first, last) of each image's output, from an input whose row y lies at y modulo `ring`.
    static void rows(const MaxPoolStep& step, Work& work, uint32_t first, uint32_t last, uint32_t ring) {
        const Map &in = work.maps[step.input], &out = work.maps[step.raw];
        const uint32_t height = last - first, units = height * work.count, parts = tasks_for(units, *work.threads, 2);
        work.threads->share(work.round, work.worker, parts, [&](uint32_t part) {
            for (uint32_t unit = cut(units, part, parts); unit < cut(units, part + 1, parts); ++unit) {
                const uint32_t image = unit / height, y = first + unit % height;
                if (!y) clear_border<Isa>(work, step.raw, image);
                const Lines lines = lines_of(step, work, image, y, ring);
                Element* target =
                    at<Isa>(work, step.raw, image) + (out.pad + y) * out.pitch() + size_t{out.pad} * out.channels;
                for (uint32_t x = 0; x < out.width; ++x) window(step, in, lines, x, target + x * out.channels);
            }
        });
    }

    struct Lines {  // of the input, under one row of windows
        const Element* line[kLargestPool];
        uint32_t count;
    };

    static Lines lines_of(const MaxPoolStep& step, const Work& work, uint32_t image, uint32_t y, uint32_t ring) {
        const Map& in = work.maps[step.input];
        const int top = static_cast<int>(y * step.stride) - static_cast<int>(step.kernel / 2);
        const uint32_t last = smaller(static_cast<uint32_t>(top + static_cast<int>(step.kernel)), in.height);
        const Element* source = at<Isa>(work, step.input, image) + (in.pad * (in.pitch() + in.channels));
        Lines lines{{}, 0};
        for (uint32_t j = top < 0 ? 0 : top; j < last; ++j) lines.line[lines.count++] = source + j % ring * in.pitch();
        return lines;
    }

    static void window(const MaxPoolStep& step, const Map& in, const Lines& lines, uint32_t x, Element* target) {
        using Stored = typename Value::Stored;
        const int left = static_cast<int>(x * step.stride) - static_cast<int>(step.kernel / 2);
        const uint32_t x0 = left < 0 ? 0 : left, channels = in.channels;
        const uint32_t x1 = smaller(static_cast<uint32_t>(left + static_cast<int>(step.kernel)), in.width);
        for (uint32_t c = 0; c < channels; c += Stored::lanes) {
            const int valid = static_cast<int>(smaller(Stored::lanes, channels - c));
            auto largest = Stored::load_n(lines.line[0] + x0 * channels + c, valid);
            for (uint32_t j = 0; j < lines.count; ++j) {
                for (uint32_t i = x0; i < x1; ++i) {
                    largest = Stored::max(largest, Stored::load_n(lines.line[j] + i * channels + c, valid));
                }
            }
            Stored::store_n(target + c, largest, valid);
        }
    }

    static void average(const AveragePoolStep& step, Work& work) {
        const uint32_t vectors = ceil_div(work.maps[step.input].channels, lanes);
        const uint32_t parts_of_map = step.grid * step.grid, units = parts_of_map * vectors * work.count;
        const uint32_t parts = tasks_for(units, *work.threads, 4);
        work.threads->share(work.round, work.worker, parts, [&](uint32_t part) {
            for (uint32_t unit = cut(units, part, parts); unit < cut(units, part + 1, parts); ++unit) {
                const uint32_t image = unit / vectors / parts_of_map, number = unit / vectors % parts_of_map;
                average_of_part(step, work, image, number, unit % vectors * lanes);
            }
        });
    }

    // Part i of a side of n positions goes from i · n / grid, rounded down, to (i + 1) · n / grid, rounded up.
    static void average_of_part(const AveragePoolStep& step, const Work& work, uint32_t image, uint32_t number,
                                uint32_t c) {
        const Map& in = work.maps[step.input];
        const uint32_t row = number / step.grid, column = number % step.grid;
        const uint32_t y0 = cut(in.height, row, step.grid), y1 = cut_up(in.height, row + 1, step.grid);
        const uint32_t x0 = cut(in.width, column, step.grid), x1 = cut_up(in.width, column + 1, step.grid);
        const int valid = static_cast<int>(smaller(lanes, in.channels - c));
        const Element* source = at<Isa>(work, step.input, image) + in.pad * (in.pitch() + in.channels) + c;
        typename Value::Dots sum = Value::no_dots();
        for (uint32_t y = y0; y < y1; ++y) {
            for (uint32_t x = x0; x < x1; ++x) {
                sum = Value::plus(sum, source + y * in.pitch() + x * in.channels, valid);
            }
        }
        const uint32_t count = (y1 - y0) * (x1 - x0);
        const Vector share = Isa::broadcast(static_cast<float>(in.scale / count));
        float* target = reinterpret_cast<float*>(work.at(step.raw, image)) + size_t{number} * in.channels + c;
        Isa::Float::store_n(target, Isa::mul(Value::of_total(sum, count, in.zero), share), valid);
    }
};

}  // namespace lccl
