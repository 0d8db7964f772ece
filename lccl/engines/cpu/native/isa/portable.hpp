// Plain C++: runs everywhere, and is what a compiler makes of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../bfloat16.hpp"
#include "common.hpp"

namespace lccl {
namespace {

template <int Count>
struct Lanes {
    float lane[Count];
};

inline float widen(float value) { return value; }
inline void narrow(float value, float& out) { out = value; }
inline void narrow(float value, BFloat16& out) { out = to_bfloat16(value); }

template <class Stored, int Count>
struct PortableOf : Common {
    using Element = Stored;
    using Float = PortableOf<float, Count>;
    using Vector = Lanes<Count>;
    static constexpr uint32_t lanes = Count, panel = 1, rows = 4, dot_step = Count, chunk = 16;

    template <class Function>
    static Vector each(Function function) {
        Vector out;
        for (int i = 0; i < Count; ++i) out.lane[i] = function(i);
        return out;
    }

    static Vector zero() { return Vector{}; }
    static Vector broadcast(float value) {
        return each([=](int) { return value; });
    }
    static Vector load(const Element* source) {
        return each([=](int i) { return widen(source[i]); });
    }
    static Vector load_n(const Element* source, int n) {
        return each([=](int i) { return i < n ? widen(source[i]) : 0.0f; });
    }
    static void store(Element* target, const Vector& value) {
        for (int i = 0; i < Count; ++i) narrow(value.lane[i], target[i]);
    }
    static void store_n(Element* target, const Vector& value, int n) {
        for (int i = 0; i < n; ++i) narrow(value.lane[i], target[i]);
    }
    static Vector add(const Vector& a, const Vector& b) {
        return each([&](int i) { return a.lane[i] + b.lane[i]; });
    }
    static Vector mul(const Vector& a, const Vector& b) {
        return each([&](int i) { return a.lane[i] * b.lane[i]; });
    }
    static Vector fma(const Vector& a, const Vector& b, const Vector& c) {
        return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
    }
    static Vector max(const Vector& a, const Vector& b) {  // b where either is NaN
        return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
    }
    static Vector where_greater(const Vector& value, const Vector& threshold, const Vector& then) {  // −1 elsewhere
        return each([&](int i) { return value.lane[i] > threshold.lane[i] ? then.lane[i] : -1.0f; });
    }
    static Vector where_not_negative(const Vector& value, const Vector& then) {  // 0 elsewhere
        return each([&](int i) { return value.lane[i] < 0.0f ? 0.0f : then.lane[i]; });
    }

    // sums[i] += row[i][offset …] · weights, lane by lane.
    static void dots(Vector* sums, const Element* const* row, size_t offset, const Element* weights) {
        for (uint32_t i = 0; i < lanes; ++i) {
            for (int e = 0; e < Count; ++e) sums[i].lane[e] += widen(row[i][offset + e]) * widen(weights[e]);
        }
    }
    static Vector dot_n(const Vector& sum, const Element* row, const Element* weights, int n) {
        return each([&](int e) { return e < n ? sum.lane[e] + widen(row[e]) * widen(weights[e]) : sum.lane[e]; });
    }
    // Lane i is the sum over the lanes of sums[i].
    static Vector sums(const Vector* sums) {
        return each([&](int i) {
            float total = 0.0f;
            for (int e = 0; e < Count; ++e) total += sums[i].lane[e];
            return total;
        });
    }

    template <int Rows, int Vectors>
    static void tile(const Element* const* row, uint32_t runs, uint32_t run, size_t pitch, const Element* weights,
                     float* sums) {
        float total[Rows][Count] = {};
        for (uint32_t r = 0; r < runs; ++r) {
            for (uint32_t e = 0; e < run; ++e, weights += Count) {
                for (int n = 0; n < Rows; ++n) {
                    const float value = widen(row[n][r * pitch + e]);
                    for (int i = 0; i < Count; ++i) total[n][i] += value * widen(weights[i]);
                }
            }
        }
        std::memcpy(sums, total, sizeof total);
    }
};

using Portable = PortableOf<float, 8>;
using PortableBf16 = PortableOf<BFloat16, 8>;

}  // namespace
}  // namespace lccl
