// The rows that a step computes, as lists of image and position.
#pragma once

#include "../kernels.hpp"

namespace lccl {

template <class Isa>
struct Lists {
    // Lists the rows that a map keeps and those it leaves out, over all images; counts and masks on the way.
    static uint32_t by_gate(const ConvolveStep& step, Work& work, uint32_t map, uint32_t& skipped) {
        const GateSpec& gate = step.gate;
        const Batch& batch = *work.batch;
        const uint32_t share = step.out_channels / gate.groups;
        uint32_t kept = 0;
        skipped = 0;
        for (uint32_t image = 0; image < work.count; ++image) {
            const size_t global = work.number(image);
            const float* values = work.gates + (size_t{image} * gate.groups + map) * step.positions;
            const size_t first_cell = (global * gate.groups + map) * step.positions;
            const uint32_t before = kept, code = image << kPositionBits;
            if (batch.forced) {
                const uint8_t* forced = batch.forced[gate.layer] + first_cell;
                for (uint32_t p = 0; p < step.positions; ++p) {
                    work.scratch.kept[kept] = work.scratch.skipped[skipped] = code | p;
                    kept += forced[p] != 0;
                    skipped += forced[p] == 0;
                }
            } else {
                const float threshold = batch.thresholds[global * batch.layers + gate.layer];
                Isa::Float::list(values, step.positions, threshold, code, work.scratch.kept, kept, work.scratch.skipped,
                                 skipped);
            }
            if (work.worker) continue;
            batch.kept[global * batch.layers + gate.layer] += int64_t{kept - before} * share;
            if (batch.masks) {
                uint8_t* mask = batch.masks[gate.layer] + first_cell;
                for (uint32_t p = 0; p < step.positions; ++p) mask[p] = 0;
                for (uint32_t n = before; n < kept; ++n) mask[work.scratch.kept[n] & kPositionMask] = 1;
            }
        }
        return kept;
    }

    static uint32_t all(const ConvolveStep& step, Work& work) {
        uint32_t n = 0;
        for (uint32_t image = 0; image < work.count; ++image) {
            for (uint32_t p = 0; p < step.positions; ++p) work.scratch.kept[n++] = image << kPositionBits | p;
        }
        return n;
    }
};

}  // namespace lccl
