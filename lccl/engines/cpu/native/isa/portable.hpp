// Plain C++: runs everywhere, and is what a compiler makes of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace lccl {
namespace {

template <int Count>
struct Lanes {
    float lane[Count];
};

struct Brain {  // bfloat16: the upper half of a float32
    uint16_t bits;
};

inline float widen(float value) { return value; }
inline float widen(Brain value) {
    const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

inline void narrow(float value, float& out) { out = value; }
inline void narrow(float value, Brain& out) {  // to the nearest, ties to even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (value != value) {
        out.bits = static_cast<uint16_t>(bits >> 16 | 0x40);
    } else {
        out.bits = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
}

template <class Stored, int Count>
struct PortableOf {
    using Element = Stored;
    using Float = PortableOf<float, Count>;
    using Vector = Lanes<Count>;
    static constexpr uint32_t lanes = Count, panel = 1, rows = 4, row_quantum = 1, k_step = 1, k_block = 1;
    static constexpr uint32_t dot_step = Count;
    static constexpr uint32_t chunk = 16;
    static constexpr size_t packed_bytes = 0;

    struct Block {
        const Element* row[rows];
        uint32_t count;
    };

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

    // Appends code + p to `kept` where values[p] > threshold, else to `skipped`.
    static void list(const float* values, uint32_t count, float threshold, uint32_t code, uint32_t* kept,
                     uint32_t& kept_count, uint32_t* skipped, uint32_t& skipped_count) {
        uint32_t k = kept_count, s = skipped_count;
        for (uint32_t p = 0; p < count; ++p) {
            const bool keep = values[p] > threshold;
            kept[k] = skipped[s] = code | p;
            k += keep;
            s += !keep;
        }
        kept_count = k;
        skipped_count = s;
    }

    static void prepare(Block& block, const Element* const* row, uint32_t count, uint32_t, uint32_t, size_t, char*) {
        for (uint32_t n = 0; n < count; ++n) block.row[n] = row[n];
        block.count = count;
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

    static void multiply(const Block& block, uint32_t runs, uint32_t run, size_t pitch, const Element* weights,
                         uint32_t, float* sums) {
        switch (block.count) {
            case 1: return tile<1, 1>(block.row, runs, run, pitch, weights, sums);
            case 2: return tile<2, 1>(block.row, runs, run, pitch, weights, sums);
            case 3: return tile<3, 1>(block.row, runs, run, pitch, weights, sums);
            default: return tile<4, 1>(block.row, runs, run, pitch, weights, sums);
        }
    }
};

using Portable = PortableOf<float, 8>;
using PortableBf16 = PortableOf<Brain, 8>;

}  // namespace
}  // namespace lccl
