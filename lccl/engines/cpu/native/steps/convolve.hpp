// A convolution: gates, lists, then the listed rows and those that are skipped.
#pragma once

#include "../kernels.hpp"
#include "gates.hpp"
#include "lists.hpp"
#include "pools.hpp"
#include "rows.hpp"
#include "skipped.hpp"

namespace lccl {

template <class Isa>
struct Convolve {
    static void run(const ConvolveStep& step, Work& work) {
        const bool lists = step.gate.layer != kNone && !step.gate.per_cell;
        const bool zeroed = lists && Skipped<Isa>::are_cleared(step);
        Skipped<Isa>::clear_outputs(step, work, zeroed);
        if (!lists) {
            ListedRows<Isa>::run(step, work, 0, Lists<Isa>::all(step, work));
            return;
        }
        Gates<Isa>::find(step, work);  // waits for all workers, so that no row is written before its map is cleared
        for (uint32_t map = 0; map < step.groups; ++map) {
            uint32_t skipped;
            const uint32_t kept = Lists<Isa>::by_gate(step, work, map, skipped);
            if (!step.in_place || step.raw != kNone) Skipped<Isa>::fill(step, work, map, skipped, zeroed);
            ListedRows<Isa>::run(step, work, map, kept);
        }
    }

    // Band by band, so that what lies between stays in the cache: the map holds `ring` rows, the last ones computed.
    static void run_and_pool(const ConvolveStep& step, const MaxPoolStep& pool, uint32_t band, uint32_t ring,
                             Work& work) {
        const Map &in = work.maps[pool.input], &out = work.maps[pool.raw];
        const uint32_t half = pool.kernel / 2;
        for (uint32_t computed = 0, pooled = 0; computed < in.height;) {
            const uint32_t until = smaller(computed + band, in.height);
            uint32_t count = 0;
            for (uint32_t p = computed * in.width; p < until * in.width; ++p) work.scratch.kept[count++] = p;
            ListedRows<Isa>::run(step, work, 0, count);
            computed = until;
            const uint32_t whole = computed > half ? (computed - 1 - half) / pool.stride + 1 : 0;  // windows
            const uint32_t ready = computed == in.height ? out.height : smaller(whole, out.height);
            Pools<Isa>::rows(pool, work, pooled, ready, ring);
            pooled = ready;
        }
    }
};

}  // namespace lccl
