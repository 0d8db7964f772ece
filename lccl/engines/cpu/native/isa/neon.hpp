// NEON, float32: 8 lanes in two registers, tiles of 6 rows × 2 vectors (24 of 32 registers hold sums).
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "common.hpp"
#include "tile.hpp"

namespace lccl {
namespace {

struct Floats {
    float32x4_t low, high;
};

struct NeonRegister {
    using Element = float;
    using Sum = Floats;
    using Weights = Floats;
    static constexpr uint32_t lanes = 8, step = 1;

    static Sum zero() { return {vdupq_n_f32(0.0f), vdupq_n_f32(0.0f)}; }
    static Weights weights(const float* source) { return {vld1q_f32(source), vld1q_f32(source + 4)}; }
    static void store(float* target, Sum sum) {
        vst1q_f32(target, sum.low);
        vst1q_f32(target + 4, sum.high);
    }
    template <int Vectors>
    static void add(Sum* sum, const float* input, const Weights* w) {
        const float value = *input;
        for (int v = 0; v < Vectors; ++v) {
            sum[v].low = vfmaq_n_f32(sum[v].low, w[v].low, value);
            sum[v].high = vfmaq_n_f32(sum[v].high, w[v].high, value);
        }
    }
    template <int Vectors>
    static void add_last(Sum*, const float*, const Weights*) {}
};

struct Neon : Common {
    using Element = float;
    using Float = Neon;
    using Vector = Floats;
    static constexpr uint32_t lanes = 8, panel = 2, rows = 6, dot_step = 8, chunk = 16;

    static Vector zero() { return NeonRegister::zero(); }
    static Vector broadcast(float value) { return {vdupq_n_f32(value), vdupq_n_f32(value)}; }
    static Vector load(const float* source) { return NeonRegister::weights(source); }
    static Vector load_n(const float* source, int n) {
        if (n >= 8) return load(source);
        float held[8] = {};
        std::memcpy(held, source, static_cast<size_t>(n) * sizeof(float));
        return load(held);
    }
    static void store(float* target, Vector value) { NeonRegister::store(target, value); }
    static void store_n(float* target, Vector value, int n) {
        if (n >= 8) return store(target, value);
        float held[8];
        store(held, value);
        std::memcpy(target, held, static_cast<size_t>(n) * sizeof(float));
    }
    static Vector add(Vector a, Vector b) { return {vaddq_f32(a.low, b.low), vaddq_f32(a.high, b.high)}; }
    static Vector mul(Vector a, Vector b) { return {vmulq_f32(a.low, b.low), vmulq_f32(a.high, b.high)}; }
    static Vector fma(Vector a, Vector b, Vector c) {
        return {vfmaq_f32(c.low, a.low, b.low), vfmaq_f32(c.high, a.high, b.high)};
    }
    static Vector max(Vector a, Vector b) {  // b where either is NaN
        return {vbslq_f32(vcgtq_f32(a.low, b.low), a.low, b.low), vbslq_f32(vcgtq_f32(a.high, b.high), a.high, b.high)};
    }
    static Vector where_greater(Vector value, Vector threshold, Vector then) {  // −1 elsewhere
        const float32x4_t least = vdupq_n_f32(-1.0f);
        return {vbslq_f32(vcgtq_f32(value.low, threshold.low), then.low, least),
                vbslq_f32(vcgtq_f32(value.high, threshold.high), then.high, least)};
    }
    static Vector where_not_negative(Vector value, Vector then) {  // 0 elsewhere
        const float32x4_t none = vdupq_n_f32(0.0f);
        return {vbslq_f32(vcltzq_f32(value.low), none, then.low), vbslq_f32(vcltzq_f32(value.high), none, then.high)};
    }

    // sums[i] += row[i][offset …] · weights, lane by lane.
    static void dots(Vector* sums, const float* const* row, size_t offset, const float* weights) {
        const Vector w = load(weights);
#pragma GCC unroll 8
        for (uint32_t i = 0; i < lanes; ++i) sums[i] = fma(load(row[i] + offset), w, sums[i]);
    }
    static Vector dot_n(Vector sum, const float* row, const float* weights, int n) {
        return fma(load_n(row, n), load_n(weights, n), sum);
    }
    // Lane i is the sum over the lanes of sums[i].
    static Vector sums(const Vector* s) { return {sums_of_four(s), sums_of_four(s + 4)}; }
    static float32x4_t sums_of_four(const Vector* s) {
        return vpaddq_f32(vpaddq_f32(halves(s[0]), halves(s[1])), vpaddq_f32(halves(s[2]), halves(s[3])));
    }
    static float32x4_t halves(Vector sum) { return vaddq_f32(sum.low, sum.high); }

    template <int Rows, int Vectors>
    static void tile(const float* const* row, uint32_t runs, uint32_t run, size_t pitch, const float* weights,
                     float* sums) {
        sum_tile<NeonRegister, Rows, Vectors>(row, runs, run, pitch, weights, sums);
    }
};

}  // namespace
}  // namespace lccl
