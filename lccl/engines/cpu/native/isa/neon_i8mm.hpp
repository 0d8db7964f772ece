// NEON with I8MM: four products of uint8 and int8 summed into int32, 6 rows × 2 vectors.
#pragma once

#include "neon_int8.hpp"

namespace lccl {
namespace {

struct MixedProduct {
    using Input = uint8_t;
    static uint8x8_t four(const uint8_t* source) { return four_at(source); }
    static int32x4_t sum(int32x4_t sum, int8x16_t weights, uint8x8_t inputs) {
        return vsudotq_lane_s32(sum, weights, inputs, 0);
    }
};

struct NeonI8mm : NeonBytes {
    static uint8x16_t dot_inputs(const uint8_t* source) { return vld1q_u8(source); }
    static int8x16_t dot_weights(const int8_t* source) { return vld1q_s8(source); }
    static Integers dot(Integers sum, uint8x16_t inputs, int8x16_t weights) {
        return {vusdotq_s32(sum.low, inputs, weights), sum.high};
    }

    template <int Rows, int Vectors>
    static void tile(const uint8_t* const* row, uint32_t runs, uint32_t run, size_t pitch, const int8_t* weights,
                     int32_t* sums) {
        sum_tile<NeonInt8Register<MixedProduct>, Rows, Vectors>(row, runs, (run + 3) / 4 * 4, pitch, weights, sums);
    }
};

}  // namespace
}  // namespace lccl
