// AMX, bfloat16 or int8: tiles of 32 rows × 32 channels, loaded from the map where rows follow each other in it, and else
// packed once for all panels.
//
// The arithmetic comes as `Registers`: eight tile registers of 16 rows × up to 64 bytes. Base gives the vector operations.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../rounding.hpp"

namespace lccl {
namespace {

template <class Base, class Registers>
struct AmxOf : Base {
    using Element = typename Base::Element;
    using State = typename Registers::State;
    static constexpr uint32_t panel = 2, rows = 32, row_quantum = 16, k_block = 16, chunk = 4;
    static constexpr uint32_t k_step = 4 / sizeof(Element), line = 64;  // line: bytes of a tile's row
    static constexpr size_t packed_bytes = sizeof(Element);
    static constexpr size_t gap = 64;  // bytes between packed rows, so that they do not share cache sets
    static_assert(Base::lanes == 16, "a tile holds 16 channels");

    // 16 rows, `stride` bytes apart, 0 before they are found; their kernel rows are `pitch` bytes apart.
    struct Rows {
        const char* first;
        size_t stride, pitch;
    };

    // Kernel rows are multiplied in `pieces` of `piece` bytes each.
    struct Block {
        Rows half[2];
        uint32_t count, runs, pieces, piece;
    };

    static void prepare(Block& block, const Element* const* row, uint32_t count, uint32_t runs, uint32_t run,
                        size_t pitch, char* base) {
        const size_t bytes = run * sizeof(Element), whole = round_up(bytes, 4);
        const uint32_t pieces = static_cast<uint32_t>(round_up(whole, line) / line);
        const bool whole_lines = whole % line == 0;
        block = {{}, count, runs, pieces, static_cast<uint32_t>(whole / pieces)};
        // In bfloat16 how kernel rows are cut decides how sums are rounded: it has to be the same for all rows.
        const bool may_be_near = whole_lines || (Base::quantised && whole % (4 * pieces) == 0);
        if (may_be_near && point_at_map(block, row, pitch * sizeof(Element))) return;
        if (!whole_lines) {  // all kernel rows as one
            block = {{}, count, 1, static_cast<uint32_t>(round_up(runs * whole, line) / line), line};
        }
        pack(block, row, runs, bytes, pitch, base);
    }

    // Finds the halves whose rows follow each other in the map; returns whether all do.
    static bool point_at_map(Block& block, const Element* const* row, size_t pitch) {
        bool all = true;
        for (uint32_t half = 0; 16 * half < block.count; ++half) {
            const Element* const* const its = row + 16 * half;
            if (block.count < 16 * (half + 1) || !are_even(its)) {
                all = false;
            } else {
                block.half[half] = {reinterpret_cast<const char*>(its[0]), (its[1] - its[0]) * sizeof(Element), pitch};
            }
        }
        return all;
    }

    static bool are_even(const Element* const* row) {
        const ptrdiff_t stride = row[1] - row[0];
        for (int n = 2; n < 16; ++n) {
            if (row[n] - row[n - 1] != stride) return false;
        }
        return stride > 0;
    }

    // The other halves: every kernel row in whole steps of k, then zeros up to whole tiles, as the weights are packed.
    // What a copy writes beyond its bytes are zeros, and the next copy's, or a gap's.
    static void pack(Block& block, const Element* const* row, uint32_t runs, size_t bytes, size_t pitch, char* base) {
        const size_t whole = round_up(bytes, 4), length = round_up(runs * whole, line) + gap;
        const typename Registers::Copy copy{bytes, runs, whole, pitch * sizeof(Element)};
        for (uint32_t half = 0; 16 * half < block.count; ++half) {
            if (block.half[half].stride) continue;
            char* const target = base + 16 * half * length;
            for (uint32_t n = 16 * half, last = smaller(n + 16, block.count); n < last; ++n) {
                char* const packed = target + n % 16 * length;
                copy(packed, reinterpret_cast<const char*>(row[n]));
                // Weights of 0 make 0 of any integer, but not of any bfloat16.
                if (!Base::quantised) Registers::clear_line(packed + runs * whole);
            }
            block.half[half] = {target, length, whole};
        }
    }

    template <class Weight, class Sum>
    static void multiply(State& state, const Block& block, uint32_t, uint32_t, size_t, const Weight* weights,
                         uint32_t vectors, Sum* sums) {
        const bool both = block.count > 16, right = vectors > 1;
        state.shape(block.piece);
        Registers registers(state);
        both ? right ? sum_tile<2, 2>(registers, block, weights, sums) : sum_tile<2, 1>(registers, block, weights, sums)
             : right ? sum_tile<1, 2>(registers, block, weights, sums) : sum_tile<1, 1>(registers, block, weights, sums);
    }

    // `Down` × `Across` tiles of 16 rows × 16 channels.
    template <int Down, int Across, class Weight, class Sum>
    static void sum_tile(Registers& registers, const Block& block, const Weight* weights, Sum* sums) {
        constexpr size_t width = 64 * Across;  // bytes of one step of k
        const char* w = reinterpret_cast<const char*>(weights);
        const Rows upper = block.half[0], lower = block.half[1];
        const size_t step = block.piece / 4 * width, end = size_t{block.piece} * block.pieces;
        for (uint32_t r = 0; r < block.runs; ++r) {
            const char *const above = upper.first + r * upper.pitch, *const below = lower.first + r * lower.pitch;
            for (size_t at = 0; at < end; at += block.piece, w += step) {
                registers.template load<4>(above + at, upper.stride);
                registers.template load<6>(w, width);
                registers.template multiply<0, 4, 6>();
                if constexpr (Across == 2) {
                    registers.template load<7>(w + 64, width);
                    registers.template multiply<1, 4, 7>();
                }
                if constexpr (Down == 2) {
                    registers.template load<5>(below + at, lower.stride);
                    registers.template multiply<2, 5, 6>();
                    if constexpr (Across == 2) registers.template multiply<3, 5, 7>();
                }
            }
        }
        registers.template store<0>(sums, width);
        if constexpr (Across == 2) registers.template store<1>(sums + 16, width);
        if constexpr (Down == 2) registers.template store<2>(sums + 256 * Across, width);
        if constexpr (Down == 2 && Across == 2) registers.template store<3>(sums + 256 * Across + 16, width);
    }
};

}  // namespace
}  // namespace lccl
