// Plain C++, int8: exact sums and products rounded one by one give the bits of every other instruction set.
#pragma once

#include "portable.hpp"

namespace lccl {
namespace {

template <int Count>
struct PortableInt8Of : PortableOf<float, Count> {
    using Element = uint8_t;
    using Float = PortableOf<float, Count>;
    using Vector = Lanes<Count>;
    static constexpr bool quantised = true, packs_pixels = false;
    static constexpr uint32_t k_step = 4, dot_step = 2 * Count;

    struct Integers {
        int32_t lane[Count];
    };
    template <class Function>
    static Integers all(Function function) {
        Integers out;
        for (int i = 0; i < Count; ++i) out.lane[i] = function(i);
        return out;
    }

    static Integers each(int32_t value) {
        return all([=](int) { return value; });
    }
    static Integers integers(const int32_t* source) { return integers_n(source, Count); }
    static Integers integers_n(const int32_t* source, int n) {
        return all([=](int i) { return i < n ? source[i] : 0; });
    }
    static Integers plus(const Integers& a, const Integers& b) {
        return all([&](int i) { return a.lane[i] + b.lane[i]; });
    }
    static Vector to_float(const Integers& value) {
        return Float::each([&](int i) { return static_cast<float>(value.lane[i]); });
    }
    static Integers widened_n(const uint8_t* source, int n) {  // 0 beyond n
        return all([=](int i) { return i < n ? source[i] : 0; });
    }
    static Vector load_n(const uint8_t* source, int n, int32_t zero) {
        return Float::each([=](int i) { return i < n ? static_cast<float>(source[i] - zero) : 0.0f; });
    }
    static void store_n(uint8_t* target, const Vector& value, int n, int32_t zero) {
        const float low = zero ? -127.0f : 0.0f, high = zero ? 127.0f : 255.0f;
        for (int i = 0; i < n; ++i) {
            const float inside = value.lane[i] > low ? value.lane[i] < high ? value.lane[i] : high : low;
            target[i] = static_cast<uint8_t>(zero + static_cast<int32_t>(__builtin_nearbyintf(inside)));
        }
    }
    static void store_n(uint8_t* target, const Vector& value, int n) { store_n(target, value, n, 0); }
    // Lane i is the sum over the lanes of sums[i].
    static Integers sums(const Integers* sums) {
        return all([&](int i) {
            int32_t total = 0;
            for (int e = 0; e < Count; ++e) total += sums[i].lane[e];
            return total;
        });
    }

    struct Bytes {  // for max-pools
        static constexpr uint32_t lanes = 1;
        static uint8_t load_n(const uint8_t* source, int) { return *source; }
        static uint8_t max(uint8_t a, uint8_t b) { return a > b ? a : b; }
        static void store_n(uint8_t* target, uint8_t value, int) { *target = value; }
    };

    struct Operand {
        int32_t value[dot_step];
    };
    template <class Stored>
    static Operand operand(const Stored* source) {
        Operand out;
        for (uint32_t e = 0; e < dot_step; ++e) out.value[e] = source[e];
        return out;
    }
    static Operand dot_inputs(const uint8_t* source) { return operand(source); }
    static Operand dot_weights(const int8_t* source) { return operand(source); }
    static Integers dot(Integers sum, const Operand& inputs, const Operand& weights) {
        for (uint32_t e = 0; e < dot_step; ++e) sum.lane[e / 2] += inputs.value[e] * weights.value[e];
        return sum;
    }

    // Reads up to a whole step beyond a run, where the weights are 0.
    template <int Rows, int Vectors>
    static void tile(const uint8_t* const* row, uint32_t runs, uint32_t run, size_t pitch, const int8_t* weights,
                     int32_t* sums) {
        int32_t total[Rows][Count] = {};
        for (uint32_t r = 0; r < runs; ++r) {
            for (uint32_t e = 0; e < run; e += k_step, weights += Count * k_step) {
                for (int n = 0; n < Rows; ++n) {
                    const uint8_t* input = row[n] + r * pitch + e;
                    for (uint32_t i = 0; i < Count * k_step; ++i) {
                        total[n][i / k_step] += input[i % k_step] * weights[i];
                    }
                }
            }
        }
        std::memcpy(sums, total, sizeof total);
    }
};

}  // namespace
}  // namespace lccl
