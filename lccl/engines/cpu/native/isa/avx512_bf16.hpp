// AVX-512 BF16: pairs of bfloat16 inputs summed into float32, 12 rows × 2 vectors.
#pragma once

#include "avx512.hpp"

namespace lccl {
namespace {

struct Brain {  // bfloat16: the upper half of a float32
    uint16_t bits;
};

struct Avx512Bf16 : Avx512 {
    using Element = Brain;
    using Float = Avx512;
    static constexpr uint32_t k_step = 2, dot_step = 32;

    struct Block {
        const Brain* row[rows];
        uint32_t count;
    };

    static Vector widen(__m256i bits) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    static __m256i narrow(Vector value) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)); }
    static Vector load(const Brain* source) {
        return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
    }
    static Vector load_n(const Brain* source, int n) { return widen(_mm256_maskz_loadu_epi16(first(n), source)); }
    static void store(Brain* target, Vector value) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), narrow(value));
    }
    static void store_n(Brain* target, Vector value, int n) {
        n >= 16 ? store(target, value) : _mm256_mask_storeu_epi16(target, first(n), narrow(value));
    }

    static __m512bh pairs_at(const Brain* source) {
        return reinterpret_cast<__m512bh>(_mm512_loadu_si512(source));
    }
    static void dots(Vector* sums, const Brain* const* row, size_t offset, const Brain* weights) {
        const __m512bh w = pairs_at(weights);
#pragma GCC unroll 16
        for (uint32_t i = 0; i < lanes; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], pairs_at(row[i] + offset), w);
    }
    static Vector dot_n(Vector sum, const Brain* row, const Brain* weights, int n) {
        const __mmask32 there = static_cast<__mmask32>((1ull << n) - 1);
        return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(there, row)),
                                pairs_at(weights));
    }

    static void prepare(Block& block, const Brain* const* row, uint32_t count, uint32_t, uint32_t, size_t, char*) {
        for (uint32_t n = 0; n < count; ++n) block.row[n] = row[n];
        block.count = count;
    }

    static __m512bh broadcast_pair(const Brain* source) {
        int pair;
        __builtin_memcpy(&pair, source, sizeof pair);
        return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
    }

    // Broadcast by the instruction itself, which compilers do not find: one load less for each product.
    static void add_products(__m512& sum, const Brain* pair, __m512bh weights) {
        struct Pair {
            uint16_t bits[2];
        };
        __asm__("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*reinterpret_cast<const Pair*>(pair)));
    }

    template <int Rows, int Vectors>
    static void tile(const Brain* const* row, uint32_t runs, uint32_t run, size_t pitch, const Brain* weights,
                     float* sums) {
        __m512 total[Rows][Vectors];
#pragma GCC unroll 16
        for (int n = 0; n < Rows; ++n) {
            for (int v = 0; v < Vectors; ++v) total[n][v] = _mm512_setzero_ps();
        }
        const size_t whole = run & ~1u;
        for (uint32_t r = 0; r < runs; ++r) {
            // Read anew for every kernel row: held over from before they would crowd the registers.
            __asm__ volatile("" ::: "memory");
            const Brain* at[Rows];
#pragma GCC unroll 16
            for (int n = 0; n < Rows; ++n) at[n] = row[n] + r * pitch;
            for (size_t e = 0; e < whole; e += 2, weights += 32 * Vectors) {
                __m512bh w[Vectors];
                for (int v = 0; v < Vectors; ++v) w[v] = pairs_at(weights + 32 * v);
#pragma GCC unroll 16
                for (int n = 0; n < Rows; ++n) {
                    if constexpr (Vectors == 1) {
                        add_products(total[n][0], at[n] + e, w[0]);
                    } else {
                        const __m512bh pair = broadcast_pair(at[n] + e);
                        for (int v = 0; v < Vectors; ++v) total[n][v] = _mm512_dpbf16_ps(total[n][v], pair, w[v]);
                    }
                }
            }
            if (run & 1) {  // the last element alone: its neighbour belongs to no tap
#pragma GCC unroll 16
                for (int n = 0; n < Rows; ++n) {
                    const __m512bh last = reinterpret_cast<__m512bh>(_mm512_set1_epi32(at[n][whole].bits));
                    for (int v = 0; v < Vectors; ++v) {
                        total[n][v] = _mm512_dpbf16_ps(total[n][v], last, pairs_at(weights + 32 * v));
                    }
                }
                weights += 32 * Vectors;
            }
        }
#pragma GCC unroll 16
        for (int n = 0; n < Rows; ++n) {
            for (int v = 0; v < Vectors; ++v) Avx512::store(sums + (n * Vectors + v) * 16, total[n][v]);
        }
    }

    static void multiply(const Block& block, uint32_t runs, uint32_t run, size_t pitch, const Brain* weights,
                         uint32_t vectors, float* sums) {
        multiply_any<Avx512Bf16>(std::make_integer_sequence<int, rows * panel>{}, block, runs, run, pitch, weights,
                                 vectors, sums);
    }
};

}  // namespace
}  // namespace lccl
