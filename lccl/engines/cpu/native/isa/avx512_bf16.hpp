// AVX-512 BF16: pairs of bfloat16 inputs summed into float32, 12 rows × 2 vectors.
#pragma once

#include "../bfloat16.hpp"
#include "avx512.hpp"

namespace lccl {
namespace {

static inline int pair_at(const BFloat16* source) {
    int pair;
    __builtin_memcpy(&pair, source, sizeof pair);
    return pair;
}

struct Avx512Bf16Register {
    using Element = BFloat16;
    using Sum = __m512;
    using Weights = __m512bh;
    static constexpr uint32_t lanes = 16, step = 2;

    static Sum zero() { return _mm512_setzero_ps(); }
    static Weights weights(const BFloat16* source) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(source)); }
    static void store(float* target, Sum sum) { _mm512_storeu_ps(target, sum); }
    template <int Vectors>
    static void add(Sum* sum, const BFloat16* input, const Weights* w) {
        if constexpr (Vectors == 1) {  // broadcast by the instruction itself, which compilers do not find
            struct Pair {
                uint16_t bits[2];
            };
            __asm__("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(*sum) : "v"(*w), "m"(*reinterpret_cast<const Pair*>(input)));
        } else {
            const __m512bh pair = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair_at(input)));
            for (int v = 0; v < Vectors; ++v) sum[v] = _mm512_dpbf16_ps(sum[v], pair, w[v]);
        }
    }
    template <int Vectors>
    static void add_last(Sum* sum, const BFloat16* input, const Weights* w) {
        const __m512bh last = reinterpret_cast<__m512bh>(_mm512_set1_epi32(input->bits));
        for (int v = 0; v < Vectors; ++v) sum[v] = _mm512_dpbf16_ps(sum[v], last, w[v]);
    }
};

struct Avx512Bf16HalfRegister {
    using Element = BFloat16;
    using Sum = __m256;
    using Weights = __m256bh;
    static constexpr uint32_t lanes = 8, step = 2;

    static Sum zero() { return _mm256_setzero_ps(); }
    static Weights weights(const BFloat16* source) {
        return reinterpret_cast<__m256bh>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
    }
    static void store(float* target, Sum sum) { _mm256_storeu_ps(target, sum); }
    template <int Vectors>
    static void add(Sum* sum, const BFloat16* input, const Weights* w) {
        const __m256bh pair = reinterpret_cast<__m256bh>(_mm256_set1_epi32(pair_at(input)));
        for (int v = 0; v < Vectors; ++v) sum[v] = _mm256_dpbf16_ps(sum[v], pair, w[v]);
    }
    template <int Vectors>
    static void add_last(Sum* sum, const BFloat16* input, const Weights* w) {
        const __m256bh last = reinterpret_cast<__m256bh>(_mm256_set1_epi32(input->bits));
        for (int v = 0; v < Vectors; ++v) sum[v] = _mm256_dpbf16_ps(sum[v], last, w[v]);
    }
};

struct Avx512Bf16 : Avx512 {
    using Element = BFloat16;
    using Float = Avx512;
    using Register = Avx512Bf16Register;
    static constexpr uint32_t k_step = 2, dot_step = 32;

    static Vector widen(__m256i bits) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
    }
    static __m256i narrow(Vector value) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)); }
    static Vector load(const BFloat16* source) {
        return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
    }
    static Vector load_n(const BFloat16* source, int n) { return widen(_mm256_maskz_loadu_epi16(first(n), source)); }
    static void store(BFloat16* target, Vector value) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), narrow(value));
    }
    static void store_n(BFloat16* target, Vector value, int n) {
        n >= 16 ? store(target, value) : _mm256_mask_storeu_epi16(target, first(n), narrow(value));
    }

    static __m512bh pairs_at(const BFloat16* source) {
        return reinterpret_cast<__m512bh>(_mm512_loadu_si512(source));
    }
    static void dots(Vector* sums, const BFloat16* const* row, size_t offset, const BFloat16* weights) {
        const __m512bh w = pairs_at(weights);
#pragma GCC unroll 16
        for (uint32_t i = 0; i < lanes; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], pairs_at(row[i] + offset), w);
    }
    static Vector dot_n(Vector sum, const BFloat16* row, const BFloat16* weights, int n) {
        const __mmask32 there = static_cast<__mmask32>((1ull << n) - 1);
        return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_maskz_loadu_epi16(there, row)),
                                pairs_at(weights));
    }

    template <int Rows, int Vectors>
    static void tile(const BFloat16* const* row, uint32_t runs, uint32_t run, size_t pitch, const BFloat16* weights,
                     float* sums) {
        sum_tile<Register, Rows, Vectors>(row, runs, run, pitch, weights, sums);
    }
};

using Avx512Bf16Narrow = NarrowOf<Avx512Bf16, Avx512Bf16HalfRegister>;

}  // namespace
}  // namespace lccl
