// The classifier and those of early exits, in float32 whatever the precision.
#pragma once

#include "../kernels.hpp"
#include "parts.hpp"
#include "tiles.hpp"

namespace lccl {

template <class Isa>
struct LinearLayers {
    using Float = typename Isa::Float;
    using Vector = typename Float::Vector;
    static constexpr uint32_t lanes = Isa::lanes;

    static void classify(const ClassifyStep& step, Work& work) {
        linear<false>(step.answer, work, pooled(step.input, work), logits(step.answer, work));
    }

    static void answer(const ExitStep& step, Work& work) {
        const auto hidden = [&](uint32_t image) { return work.hidden + size_t{image} * step.hidden.out; };
        linear<true>(step.hidden, work, pooled(step.input, work), hidden);
        linear<false>(step.answer, work, hidden, logits(step.answer, work));
    }

    static auto pooled(int input, const Work& work) {
        return [&work, input](uint32_t image) { return reinterpret_cast<const float*>(work.at(input, image)); };
    }

    static auto logits(const Linear& layer, const Work& work) {
        return [&work, &layer](uint32_t image) { return work.batch->logits + work.number(image) * layer.out; };
    }

    // target(image) = weights · source(image) + bias, for every image.
    template <bool Relu, class Source, class Target>
    static void linear(const Linear& layer, Work& work, Source source, Target target) {
        const uint32_t vectors = ceil_div(layer.out, lanes), panels = ceil_div(vectors, Float::panel);
        work.threads->share(work.round, work.worker, panels, [&](uint32_t panel) {
            const uint32_t vector = panel * Float::panel, taken = smaller(Float::panel, vectors - vector);
            for (uint32_t first = 0; first < work.count; first += Float::rows) {
                const uint32_t count = smaller(Float::rows, work.count - first);
                typename Tiles<Float>::Block block;
                const float* row[Float::rows];
                for (uint32_t n = 0; n < count; ++n) row[n] = source(first + n);
                Tiles<Float>::prepare(block, row, count, 1, layer.in, 0, nullptr);
                alignas(64) float sums[Float::rows * Float::panel * lanes];
                typename Float::State state;
                Tiles<Float>::multiply(state, block, 1, layer.in, 0, layer.weights + vector * layer.vector_weights, taken,
                                       sums);
                for (uint32_t n = 0; n < count; ++n) {
                    float* const row_target = target(first + n);
                    for (uint32_t v = 0; v < taken; ++v) {
                        const uint32_t channel = (vector + v) * lanes;
                        const int valid = static_cast<int>(smaller(lanes, layer.out - channel));
                        Vector value = Float::add(Float::load(sums + (n * taken + v) * lanes),
                                                  Float::load_n(layer.bias + channel, valid));
                        if constexpr (Relu) value = Float::max(Float::zero(), value);  // NaN stays
                        Float::store_n(row_target + channel, value, valid);
                    }
                }
            }
        });
        if (work.worker) return;
        const int64_t macs = int64_t{vectors} * lanes * layer.in;
        for (uint32_t image = 0; image < work.count; ++image) work.batch->executed[work.number(image)] += macs;
    }
};

}  // namespace lccl
