// The classifier, in float32 whatever the precision.
#pragma once

#include "../kernels.hpp"
#include "parts.hpp"
#include "tiles.hpp"

namespace lccl {

template <class Isa>
struct Classify {
    using Float = typename Isa::Float;
    static constexpr uint32_t lanes = Isa::lanes;

    static void run(const ClassifyStep& step, Work& work) {
        const uint32_t vectors = ceil_div(step.classes, lanes), panels = ceil_div(vectors, Float::panel);
        work.team->share(work.round, work.member, panels, [&](uint32_t panel) {
            const uint32_t vector = panel * Float::panel, taken = smaller(Float::panel, vectors - vector);
            for (uint32_t first = 0; first < work.count; first += Float::rows) {
                const uint32_t count = smaller(Float::rows, work.count - first);
                typename Tiles<Float>::Block block;
                const float* row[Float::rows];
                for (uint32_t n = 0; n < count; ++n) {
                    row[n] = reinterpret_cast<const float*>(work.at(step.input, first + n));
                }
                Tiles<Float>::prepare(block, row, count, 1, step.channels, 0, nullptr);
                alignas(64) float sums[Float::rows * Float::panel * lanes];
                Tiles<Float>::multiply(block, 1, step.channels, 0, step.weights + vector * step.vector_weights, taken,
                                       sums);
                for (uint32_t n = 0; n < count; ++n) {
                    float* target = work.logits + size_t{work.first + first + n} * step.classes;
                    for (uint32_t c = vector * lanes; c < smaller(step.classes, (vector + taken) * lanes); ++c) {
                        target[c] = sums[n * taken * lanes + c - vector * lanes] + step.bias[c];
                    }
                }
            }
        });
        if (work.member) return;
        const int64_t macs = int64_t{vectors} * lanes * step.channels;
        for (uint32_t image = 0; image < work.count; ++image) work.executed[work.first + image] += macs;
    }
};

}  // namespace lccl
