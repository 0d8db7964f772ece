// Gates of whole rows: each position's dot product with a map's window, a vector of positions at a time.
#pragma once

#include "../kernels.hpp"
#include "maps.hpp"
#include "parts.hpp"
#include "tiles.hpp"
#include "values.hpp"

namespace lccl {

template <class Isa>
struct Gates {
    using Element = typename Isa::Element;
    using Weight = WeightOf<Isa>;
    using Vector = typename Isa::Vector;
    using Value = Values<Isa>;
    using Dots = typename Value::Dots;
    static constexpr uint32_t lanes = Isa::lanes;

    // gates[image][map][position] = ReLU(affine(dot product)).
    static void find(const ConvolveStep& step, Work& work) {
        const GateSpec& gate = step.gate;
        const uint32_t blocks = ceil_div(step.positions, lanes), units = blocks * work.count;
        const uint32_t parts = tasks_for(units, *work.threads, 2);
        work.threads->share(work.round, work.worker, parts, [&](uint32_t part) {
            for (uint32_t unit = cut(units, part, parts); unit < cut(units, part + 1, parts); ++unit) {
                block(step, work, unit / blocks, unit % blocks * lanes);
            }
        });
        if (work.worker) return;
        // Positions beyond the last fill up the last vector, and elements beyond a run its last step: both are run.
        const int64_t run = int64_t{ceil_div(gate.run, Isa::dot_step)} * Isa::dot_step;
        for (uint32_t image = 0; image < work.count; ++image) {
            work.batch->executed[work.number(image)] += int64_t{blocks} * lanes * gate.groups * gate.runs * run;
        }
    }

    static void block(const ConvolveStep& step, Work& work, uint32_t image, uint32_t first) {
        const GateSpec& gate = step.gate;
        const Element* base = at<Isa>(work, gate.input, image);
        const size_t pitch = work.maps[gate.input].pitch();
        const size_t map_weights = size_t{gate.runs} * ceil_div(gate.run, Isa::dot_step) * Isa::dot_step;
        if (Value::packs_pixels && first + lanes <= step.positions && are_short_pixels(gate, first)) {
            for (uint32_t map = 0; map < gate.groups; ++map) {
                const Weight* weights = static_cast<const Weight*>(gate.weights) + map * map_weights;
                write(step, work, image, first, map,
                      sums_of_short_pixels(gate, base + gate.offset[first], pitch, weights, correction_of(gate, map)));
            }
            return;
        }
        const Element* row[lanes];
        for (uint32_t i = 0; i < lanes; ++i) row[i] = base + gate.offset[smaller(first + i, step.positions - 1)];
        const bool neighbours = first + lanes <= step.positions && are_neighbours(gate, row);
        for (uint32_t map = 0; map < gate.groups; ++map) {
            const Weight* weights = static_cast<const Weight*>(gate.weights) + map * map_weights;
            const int32_t correction = correction_of(gate, map);
            write(step, work, image, first, map,
                  neighbours ? sums_of_neighbours(gate, row, pitch, weights, correction)
                             : sums_of_windows(gate, row, pitch, weights, correction));
        }
    }

    static int32_t correction_of(const GateSpec& gate, uint32_t map) {
        return gate.correction ? gate.correction[map] : 0;
    }

    static void write(const ConvolveStep& step, Work& work, uint32_t image, uint32_t first, uint32_t map, Vector sums) {
        const GateSpec& gate = step.gate;
        const Vector scale = Isa::broadcast(gate.scale[map]), shift = Isa::broadcast(gate.shift[map]);
        const Vector value = Isa::max(Isa::zero(), Value::affine(sums, scale, shift));
        float* target = work.gates + (size_t{image} * gate.groups + map) * step.positions + first;
        Isa::Float::store_n(target, value, static_cast<int>(smaller(lanes, step.positions - first)));
    }

    static Vector sums_of_windows(const GateSpec& gate, const Element* const* row, size_t pitch,
                                  const Weight* weights, int32_t correction) {
        // Beyond a run int8's weights are 0, and so is the product, whatever lies there.
        const uint32_t steps = Isa::quantised ? ceil_div(gate.run, Isa::dot_step) : gate.run / Isa::dot_step;
        const uint32_t whole = steps * Isa::dot_step, rest = whole < gate.run ? gate.run - whole : 0;
        Dots sums[lanes];
#pragma GCC unroll 16
        for (uint32_t i = 0; i < lanes; ++i) sums[i] = Value::no_dots();
        for (uint32_t r = 0; r < gate.runs; ++r) {
            for (uint32_t e = 0; e < whole; e += Isa::dot_step, weights += Isa::dot_step) {
                Value::dots(sums, row, r * pitch + e, weights);
            }
            if (!rest) continue;
#pragma GCC unroll 16
            for (uint32_t i = 0; i < lanes; ++i) {
                sums[i] = Value::dot_n(sums[i], row[i] + r * pitch + whole, weights, static_cast<int>(rest));
            }
            weights += Isa::dot_step;
        }
        return Value::of_dots(sums, correction);
    }

    // Pixels of which a vector holds several: it takes that many neighbouring positions at once.
    static bool are_short_pixels(const GateSpec& gate, uint32_t first) {
        const uint32_t channels = gate.run / 3;
        return gate.runs == 3 && (channels == 16 || channels == 32) &&
               gate.offset[first + lanes - 1] == gate.offset[first] + (lanes - 1) * channels;
    }

    static Vector sums_of_short_pixels(const GateSpec& gate, const Element* pixel, size_t pitch, const Weight* weights,
                                       int32_t correction) {
        if constexpr (Value::packs_pixels) {
            return gate.run == 48 ? sums_of_pixels<16>(pixel, pitch, weights, correction)
                                  : sums_of_pixels<32>(pixel, pitch, weights, correction);
        } else {
            return Isa::zero();
        }
    }

    template <uint32_t Channels>
    static Vector sums_of_pixels(const Element* pixel, size_t pitch, const Weight* weights, int32_t correction) {
        constexpr uint32_t vectors = lanes * Channels / Isa::dot_step;
        Dots sums[vectors];
#pragma GCC unroll 16
        for (uint32_t i = 0; i < vectors; ++i) sums[i] = Value::no_dots();
        constexpr uint32_t row_weights = (3 * Channels + Isa::dot_step - 1) / Isa::dot_step * Isa::dot_step;
        for (uint32_t r = 0; r < 3; ++r, pixel += pitch, weights += row_weights) {
#pragma GCC unroll 3
            for (uint32_t tap = 0; tap < 3; ++tap) {
                const auto w = Isa::template repeated<Channels>(weights + tap * Channels);
#pragma GCC unroll 16
                for (uint32_t i = 0; i < vectors; ++i) {
                    sums[i] = Value::dot(sums[i], Value::dot_inputs(pixel + tap * Channels + i * Isa::dot_step), w);
                }
            }
        }
        return Value::of_dots(Isa::template sums_of<Channels>(sums), correction);
    }

    // Windows of three pixels at neighbouring positions share most of them: each pixel is read once for three products.
    static constexpr uint32_t kSpan = 8;  // positions

    static bool are_neighbours(const GateSpec& gate, const Element* const* row) {
        if (gate.runs != 3 || !Value::shares_inputs || gate.run % (3 * Isa::dot_step)) return false;
        bool neighbours = true;  // from one position to the next it is a pixel or more
        for (uint32_t i = 0; i < lanes; i += kSpan) {
            neighbours &= row[i + kSpan - 1] == row[i] + (kSpan - 1) * (gate.run / 3);
        }
        return neighbours;
    }

    static Vector sums_of_neighbours(const GateSpec& gate, const Element* const* row, size_t pitch,
                                     const Weight* weights, int32_t correction) {
        const uint32_t channels = gate.run / 3;
        Dots sums[lanes];
#pragma GCC unroll 16
        for (uint32_t i = 0; i < lanes; ++i) sums[i] = Value::no_dots();
        for (uint32_t r = 0; r < 3; ++r, weights += 2 * channels) {
            for (uint32_t c = 0; c < channels; c += Isa::dot_step, weights += Isa::dot_step) {
                const auto left = Value::dot_weights(weights), middle = Value::dot_weights(weights + channels);
                const auto right = Value::dot_weights(weights + 2 * channels);
#pragma GCC unroll 2
                for (uint32_t span = 0; span < lanes; span += kSpan) {
                    const Element* pixel = row[span] + r * pitch + c;
#pragma GCC unroll 16
                    for (uint32_t i = 0; i < kSpan + 2; ++i, pixel += channels) {
                        const auto value = Value::dot_inputs(pixel);
                        if (i < kSpan) sums[span + i] = Value::dot(sums[span + i], value, left);
                        if (i > 0 && i <= kSpan) sums[span + i - 1] = Value::dot(sums[span + i - 1], value, middle);
                        if (i > 1) sums[span + i - 2] = Value::dot(sums[span + i - 2], value, right);
                    }
                }
            }
        }
        return Value::of_dots(sums, correction);
    }
};

}  // namespace lccl
