// NEON with dot products of int8 alone: 128 is taken off the inputs, once for all panels of a tile's rows.
//
// Σ weight · q = Σ weight · (q − 128) + 128 · Σ weight, and the last part is added with what corrects the sums anyway.
#pragma once

#include "neon_int8.hpp"

namespace lccl {
namespace {

struct SignedProduct {
    using Input = int8_t;
    static int8x8_t four(const int8_t* source) {
        return vreinterpret_s8_u8(four_at(reinterpret_cast<const uint8_t*>(source)));
    }
    static int32x4_t sum(int32x4_t sum, int8x16_t weights, int8x8_t inputs) {
        return vdotq_lane_s32(sum, weights, inputs, 0);
    }
};

struct NeonDot : NeonBytes {
    static constexpr int32_t taken_off = 128;
    static constexpr size_t packed_bytes = 1;
    static constexpr size_t gap = 64;  // bytes between packed rows, so that they do not share cache sets
    using Tile = void (*)(const int8_t* const*, uint32_t, uint32_t, size_t, const int8_t*, int32_t*);

    struct Block {
        const int8_t* row[rows];
        uint32_t count, length;
    };

    static int8x16_t dot_inputs(const uint8_t* source) {
        return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(source), vdupq_n_u8(128)));
    }
    static int8x16_t dot_weights(const int8_t* source) { return vld1q_s8(source); }
    static Integers dot(Integers sum, int8x16_t inputs, int8x16_t weights) {
        return {vdotq_s32(sum.low, inputs, weights), sum.high};
    }

    // Kernel rows with a multiple of four elements, as the weights are packed. Sixteen at once: what is written beyond
    // a row's end is written again or lies in a gap, and what is read beyond it meets weights of 0.
    static void prepare(Block& block, const uint8_t* const* row, uint32_t count, uint32_t runs, uint32_t run,
                        size_t pitch, char* base) {
        const uint32_t whole = (run + 3) / 4 * 4;
        block.count = count;
        block.length = runs * whole;
        for (uint32_t n = 0; n < count; ++n) {
            int8_t* const packed = reinterpret_cast<int8_t*>(base + n * (round_up(block.length, 64) + gap));
            block.row[n] = packed;
            for (uint32_t r = 0; r < runs; ++r) {
                for (uint32_t e = 0; e < whole; e += 16) {
                    vst1q_s8(packed + r * whole + e, dot_inputs(row[n] + r * pitch + e));
                }
            }
        }
    }

    static void multiply(State&, const Block& block, uint32_t, uint32_t, size_t, const int8_t* weights, uint32_t vectors,
                         int32_t* sums) {
        static constexpr Tile tiles[rows][panel] = {{&tile<1, 1>, &tile<1, 2>}, {&tile<2, 1>, &tile<2, 2>},
                                                    {&tile<3, 1>, &tile<3, 2>}, {&tile<4, 1>, &tile<4, 2>},
                                                    {&tile<5, 1>, &tile<5, 2>}, {&tile<6, 1>, &tile<6, 2>}};
        tiles[block.count - 1][vectors - 1](block.row, 1, block.length, 0, weights, sums);
    }

    template <int Rows, int Vectors>
    static void tile(const int8_t* const* row, uint32_t runs, uint32_t run, size_t pitch, const int8_t* weights,
                     int32_t* sums) {
        sum_tile<NeonInt8Register<SignedProduct>, Rows, Vectors>(row, runs, run, pitch, weights, sums);
    }
};

}  // namespace
}  // namespace lccl
