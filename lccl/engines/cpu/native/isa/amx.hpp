// AMX, bfloat16 or int8: rows are packed once for all panels, then multiplied in tiles of 32 rows × 32 channels.
//
// The arithmetic comes as `Tiles`: eight tile registers of 16 rows × 64 bytes. Base gives the vector operations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../rounding.hpp"

namespace lccl {
namespace {

template <class Base, class Tiles>
struct AmxOf : Base {
    using Element = typename Base::Element;
    using Vector = typename Base::Vector;
    static constexpr uint32_t panel = 2, rows = 32, row_quantum = 16, k_block = 16, chunk = 4;
    static constexpr uint32_t k_step = 4 / sizeof(Element), line = 64 / sizeof(Element);  // elements of a tile's row
    static constexpr size_t packed_bytes = sizeof(Element);
    static constexpr size_t gap = 64;  // bytes between packed rows, so that they do not share cache sets
    static_assert(Base::lanes == 16, "a tile holds 16 channels");

    struct Block {
        const char* packed;
        size_t pitch;  // bytes
        uint32_t count, steps;
    };

    // Every kernel row in whole steps of k, then zeros up to whole tiles: as the weights are packed.
    static void prepare(Block& block, const Element* const* row, uint32_t count, uint32_t runs, uint32_t run,
                        size_t pitch, char* base) {
        const size_t whole = round_up(run, k_step), used = runs * whole, padded = round_up(used, line);
        block.pitch = padded * sizeof(Element) + gap;
        block.count = count;
        block.steps = static_cast<uint32_t>(padded / line);
        block.packed = base;
        for (uint32_t n = 0; n < count; ++n) {
            Element* target = reinterpret_cast<Element*>(base + n * block.pitch);
            for (uint32_t r = 0; r < runs; ++r, target += whole) {
                std::memcpy(target, row[n] + r * pitch, run * sizeof(Element));
                std::memset(target + run, 0, (whole - run) * sizeof(Element));
            }
            std::memset(target, 0, (padded - used) * sizeof(Element));
        }
    }

    template <class Weight, class Sum>
    static void multiply(const Block& block, uint32_t, uint32_t, size_t, const Weight* weights, uint32_t vectors,
                         Sum* sums) {
        Tiles tiles;
        const char* w = reinterpret_cast<const char*>(weights);
        const size_t pitch = size_t{64} * vectors;  // bytes of one step of k
        const bool lower = block.count > 16, right = vectors > 1;
        for (uint32_t step = 0; step < block.steps; ++step, w += 16 * pitch) {
            tiles.template load<4>(block.packed + step * 64, block.pitch);
            tiles.template load<6>(w, pitch);
            tiles.template multiply<0, 4, 6>();
            if (right) {
                tiles.template load<7>(w + 64, pitch);
                tiles.template multiply<1, 4, 7>();
            }
            if (!lower) continue;
            tiles.template load<5>(block.packed + 16 * block.pitch + step * 64, block.pitch);
            tiles.template multiply<2, 5, 6>();
            if (right) tiles.template multiply<3, 5, 7>();
        }
        tiles.template store<0>(sums, pitch);
        if (right) tiles.template store<1>(sums + 16, pitch);
        if (!lower) return;
        tiles.template store<2>(sums + 256 * vectors, pitch);
        if (right) tiles.template store<3>(sums + 256 * vectors + 16, pitch);
    }
};

}  // namespace
}  // namespace lccl
