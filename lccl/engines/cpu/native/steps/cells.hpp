// Gates of single cells: a map per channel or few, computed for every position beside the convolution.
#pragma once

#include "../kernels.hpp"
#include "maps.hpp"
#include "parts.hpp"
#include "tiles.hpp"
#include "values.hpp"

namespace lccl {

template <class Isa>
struct Cells {
    using Element = typename Isa::Element;
    using Vector = typename Isa::Vector;
    using Float = typename Isa::Float;
    using Block = typename Tiles<Isa>::Block;
    using Value = Values<Isa>;
    static constexpr uint32_t lanes = Isa::lanes;

    static uint32_t pitch_of(const GateSpec& gate) { return ceil_div(gate.groups, lanes) * lanes; }

    // Gate values of the tile at `slot` of a chunk; −1 stands for a cell that is not kept.
    static void find(const ConvolveStep& step, Work& work, typename Isa::State& state, uint32_t slot, uint32_t begin,
                     uint32_t count) {
        const GateSpec& gate = step.gate;
        const Batch& batch = *work.batch;
        Block block;
        prepare(block, step, work, begin, count);
        const uint32_t vectors = ceil_div(gate.groups, lanes), pitch = pitch_of(gate);
        const auto* weights = static_cast<const WeightOf<Isa>*>(gate.weights);
        alignas(64) SumOf<Isa> sums[Isa::rows * Isa::panel * lanes];
        for (uint32_t vector = 0; vector < vectors; vector += Isa::panel) {
            const uint32_t taken = smaller(Isa::panel, vectors - vector);
            const size_t vector_weights = size_t{lanes} * packed_k(gate.runs, gate.run);
            Tiles<Isa>::multiply(state, block, gate.runs, gate.run, work.maps[gate.input].pitch(),
                                 weights + vector * vector_weights, taken, sums);
            for (uint32_t n = 0; n < count; ++n) {
                const uint32_t code = work.scratch.kept[begin + n], image = code >> kPositionBits;
                const size_t global = work.number(image);
                const Vector threshold = Isa::broadcast(batch.thresholds[global * batch.layers + gate.layer]);
                for (uint32_t v = 0; v < taken; ++v) {
                    const uint32_t map = (vector + v) * lanes;
                    const int valid = static_cast<int>(smaller(lanes, gate.groups - map));
                    Vector value = Value::of_sums(sums + (n * taken + v) * lanes, {gate.correction, map, valid});
                    value = Value::affine(value, Float::load_n(gate.scale + map, valid),
                                          Float::load_n(gate.shift + map, valid));
                    value = Isa::max(Isa::zero(), value);
                    float* target = work.scratch.cells + (slot * Isa::rows + n) * size_t{pitch} + map;
                    if (batch.forced) {
                        Float::store(target, value);
                        force(step, work, target, static_cast<uint32_t>(valid), map, code);
                    } else {
                        Float::store(target, Isa::where_greater(value, threshold, value));
                    }
                }
            }
        }
        tally(step, work, slot, begin, count);
    }

    static void prepare(Block& block, const ConvolveStep& step, const Work& work, uint32_t begin, uint32_t count) {
        const Element* row[Isa::rows];
        const uint32_t* codes = work.scratch.kept + begin;
        for (uint32_t n = 0; n < count; ++n) {
            row[n] =
                at<Isa>(work, step.gate.input, codes[n] >> kPositionBits) + step.gate.offset[codes[n] & kPositionMask];
        }
        Tiles<Isa>::prepare(block, row, count, step.gate.runs, step.gate.run, work.maps[step.gate.input].pitch(),
                            packed_at(work, Isa::chunk));
    }

    static void force(const ConvolveStep& step, const Work& work, float* values, uint32_t valid, uint32_t map,
                      uint32_t code) {
        const size_t image = work.number(code >> kPositionBits);
        const uint8_t* forced = work.batch->forced[step.gate.layer] + (image * step.gate.groups + map) * step.positions;
        for (uint32_t v = 0; v < valid; ++v) {
            if (!forced[size_t{v} * step.positions + (code & kPositionMask)]) values[v] = -1.0f;
        }
    }

    // Kept counts and masks of a tile of rows. Several workers may have tiles of one image.
    static void tally(const ConvolveStep& step, Work& work, uint32_t slot, uint32_t begin, uint32_t count) {
        const GateSpec& gate = step.gate;
        const Batch& batch = *work.batch;
        const uint32_t share = step.out_channels / gate.groups, pitch = pitch_of(gate);
        for (uint32_t n = 0; n < count; ++n) {
            const uint32_t code = work.scratch.kept[begin + n];
            const size_t image = work.number(code >> kPositionBits);
            const float* values = work.scratch.cells + (slot * Isa::rows + n) * size_t{pitch};
            int64_t kept = 0;
            for (uint32_t map = 0; map < gate.groups; ++map) kept += !(values[map] < 0.0f);
            int64_t* total = batch.kept + image * batch.layers + gate.layer;
            __atomic_fetch_add(total, kept * share, __ATOMIC_RELAXED);
            if (!batch.masks) continue;
            uint8_t* mask = batch.masks[gate.layer] + image * gate.groups * step.positions + (code & kPositionMask);
            for (uint32_t map = 0; map < gate.groups; ++map) {
                mask[size_t{map} * step.positions] = !(values[map] < 0.0f);
            }
        }
    }

    // The gate values of a vector of channels: each map's value for all channels it rules.
    static Vector spread(const ConvolveStep& step, const Work& work, uint32_t row, uint32_t channel, int valid) {
        const uint32_t share = step.out_channels / step.gate.groups;
        const float* values = work.scratch.cells + size_t{row} * pitch_of(step.gate);
        if (share == 1) return Float::load_n(values + channel, valid);
        alignas(64) float cells[lanes] = {};
        for (int c = 0; c < valid; ++c) cells[c] = values[(channel + c) / share];
        return Float::load(cells);
    }

    static size_t packed_k(uint32_t runs, uint32_t run) {
        return size_t{ceil_div(runs * ceil_div(run, Isa::k_step), Isa::k_block)} * Isa::k_block * Isa::k_step;
    }
};

}  // namespace lccl
