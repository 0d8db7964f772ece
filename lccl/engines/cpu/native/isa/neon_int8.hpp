// NEON, int8: what it needs beside the sums. How four products are summed is its instruction sets' own.
#pragma once

#include "../rounding.hpp"
#include "neon.hpp"
#include "unfused.hpp"

namespace lccl {
namespace {

// Four bytes, in the first lane. Of the intrinsics compilers make instructions that copy it into the others, and
// these take the place of products.
static inline uint8x8_t four_at(const uint8_t* source) {
    uint8x8_t four;
    __asm__("ldr %s0, %1" : "=w"(four) : "m"(*reinterpret_cast<const uint8_t(*)[4]>(source)));
    return four;
}

struct NeonBytes : UnfusedOf<Neon, NeonRegister> {
    using Element = uint8_t;
    using Float = UnfusedOf<Neon, NeonRegister>;
    struct Integers {
        int32x4_t low, high;
    };
    static constexpr bool quantised = true, packs_pixels = false;
    static constexpr uint32_t k_step = 4, dot_step = 16;

    static Integers each(int32_t value) { return {vdupq_n_s32(value), vdupq_n_s32(value)}; }
    static Integers integers(const int32_t* source) { return {vld1q_s32(source), vld1q_s32(source + 4)}; }
    static Integers integers_n(const int32_t* source, int n) {
        if (n >= 8) return integers(source);
        int32_t held[8] = {};
        std::memcpy(held, source, static_cast<size_t>(n) * sizeof(int32_t));
        return integers(held);
    }
    static Integers plus(Integers a, Integers b) { return {vaddq_s32(a.low, b.low), vaddq_s32(a.high, b.high)}; }
    static Vector to_float(Integers value) { return {vcvtq_f32_s32(value.low), vcvtq_f32_s32(value.high)}; }
    static uint8x8_t bytes_n(const uint8_t* source, int n) {  // 0 beyond n
        if (n >= 8) return vld1_u8(source);
        uint8_t held[8] = {};
        std::memcpy(held, source, static_cast<size_t>(n));
        return vld1_u8(held);
    }
    static Integers widened(uint8x8_t bytes) {
        const uint16x8_t words = vmovl_u8(bytes);
        return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(words))), vreinterpretq_s32_u32(vmovl_high_u16(words))};
    }
    static Integers widened_n(const uint8_t* source, int n) { return widened(bytes_n(source, n)); }
    static Vector load_n(const uint8_t* source, int n, int32_t zero) {
        if (n >= 8) return to_float(plus(widened_n(source, 8), each(-zero)));
        uint8_t held[8];
        std::memset(held, zero, sizeof held);
        std::memcpy(held, source, static_cast<size_t>(n));
        return to_float(plus(widened(vld1_u8(held)), each(-zero)));
    }
    static void store_n(uint8_t* target, Vector value, int n, int32_t zero) {
        const float32x4_t low = vdupq_n_f32(zero ? -127.0f : 0.0f), high = vdupq_n_f32(zero ? 127.0f : 255.0f);
        const auto inside = [&](float32x4_t values) { return vminq_f32(vmaxnmq_f32(values, low), high); };
        store_bytes(target, plus(rounded({inside(value.low), inside(value.high)}), each(zero)), n);
    }
    static void store_n(uint8_t* target, Vector value, int n) { store_bytes(target, rounded(value), n); }
    static Integers rounded(Vector value) {  // ties to even, and what no integer holds to the nearest
        return {vcvtnq_s32_f32(value.low), vcvtnq_s32_f32(value.high)};
    }
    static void store_bytes(uint8_t* target, Integers value, int n) {  // the nearest byte
        const uint16x8_t words = vqmovun_high_s32(vqmovun_s32(value.low), value.high);
        const uint8x8_t bytes = vqmovn_u16(words);
        if (n >= 8) return vst1_u8(target, bytes);
        uint8_t held[8];
        vst1_u8(held, bytes);
        std::memcpy(target, held, static_cast<size_t>(n));
    }
    // Lane i is the sum over the low lanes of sums[i]: dot products leave the high ones 0.
    static Integers sums(const Integers* s) { return {sums_of_four(s), sums_of_four(s + 4)}; }
    static int32x4_t sums_of_four(const Integers* s) {
        return vpaddq_s32(vpaddq_s32(s[0].low, s[1].low), vpaddq_s32(s[2].low, s[3].low));
    }

    struct Bytes {  // for max-pools
        static constexpr uint32_t lanes = 16;
        static uint8x16_t load_n(const uint8_t* source, int n) {
            if (n >= 16) return vld1q_u8(source);
            uint8_t held[16] = {};
            std::memcpy(held, source, static_cast<size_t>(n));
            return vld1q_u8(held);
        }
        static uint8x16_t max(uint8x16_t a, uint8x16_t b) { return vmaxq_u8(a, b); }
        static void store_n(uint8_t* target, uint8x16_t value, int n) {
            if (n >= 16) return vst1q_u8(target, value);
            uint8_t held[16];
            vst1q_u8(held, value);
            std::memcpy(target, held, static_cast<size_t>(n));
        }
    };
};

// A tile's register, given how four products of each lane are summed.
template <class Product>
struct NeonInt8Register {
    using Sum = NeonBytes::Integers;
    struct Weights {
        int8x16_t low, high;
    };
    static constexpr uint32_t lanes = 8, step = 4;

    static Sum zero() { return NeonBytes::each(0); }
    static Weights weights(const int8_t* source) { return {vld1q_s8(source), vld1q_s8(source + 16)}; }
    static void store(int32_t* target, Sum sum) {
        vst1q_s32(target, sum.low);
        vst1q_s32(target + 4, sum.high);
    }
    template <int Vectors>
    static void add(Sum* sum, const typename Product::Input* input, const Weights* w) {
        const auto four = Product::four(input);
        for (int v = 0; v < Vectors; ++v) {
            sum[v].low = Product::sum(sum[v].low, w[v].low, four);
            sum[v].high = Product::sum(sum[v].high, w[v].high, four);
        }
    }
    template <int Vectors>
    static void add_last(Sum*, const typename Product::Input*, const Weights*) {}
};

}  // namespace
}  // namespace lccl
