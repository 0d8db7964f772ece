// AVX-512, float32: 16 lanes, tiles of 12 rows × 2 vectors (24 of 32 registers hold sums).
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "avx2.hpp"
#include "common.hpp"
#include "tile.hpp"

namespace lccl {
namespace {

struct Avx512Register {
    using Element = float;
    using Sum = __m512;
    using Weights = __m512;
    static constexpr uint32_t lanes = 16, step = 1;

    static Sum zero() { return _mm512_setzero_ps(); }
    static Weights weights(const float* source) { return _mm512_loadu_ps(source); }
    static void store(float* target, Sum sum) { _mm512_storeu_ps(target, sum); }
    template <int Vectors>
    static void add(Sum* sum, const float* input, const Weights* w) {
        const __m512 value = _mm512_set1_ps(*input);
        for (int v = 0; v < Vectors; ++v) sum[v] = _mm512_fmadd_ps(value, w[v], sum[v]);
    }
    template <int Vectors>
    static void add_last(Sum*, const float*, const Weights*) {}
};

struct Avx512 : Common {
    using Element = float;
    using Float = Avx512;
    using Register = Avx512Register;
    using Vector = __m512;
    static constexpr uint32_t lanes = 16, panel = 2, rows = 12, dot_step = 16, chunk = 8;

    static __mmask16 first(int n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : (1u << n) - 1); }
    static Vector zero() { return _mm512_setzero_ps(); }
    static Vector broadcast(float value) { return _mm512_set1_ps(value); }
    static Vector load(const float* source) { return _mm512_loadu_ps(source); }
    static Vector load_n(const float* source, int n) { return _mm512_maskz_loadu_ps(first(n), source); }
    static void store(float* target, Vector value) { _mm512_storeu_ps(target, value); }
    static void store_n(float* target, Vector value, int n) {
        n >= 16 ? store(target, value) : _mm512_mask_storeu_ps(target, first(n), value);
    }
    static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
    static Vector mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
    static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
    static Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }  // b where either is NaN
    static Vector where_greater(Vector value, Vector threshold, Vector then) {  // −1 elsewhere
        return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(value, threshold, _CMP_GT_OQ), _mm512_set1_ps(-1.0f), then);
    }
    static Vector where_not_negative(Vector value, Vector then) {  // 0 elsewhere
        return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(value, zero(), _CMP_NLT_UQ), then);
    }

    // sums[i] += row[i][offset …] · weights, lane by lane.
    static void dots(Vector* sums, const float* const* row, size_t offset, const float* weights) {
        const __m512 w = load(weights);
#pragma GCC unroll 16
        for (uint32_t i = 0; i < lanes; ++i) sums[i] = _mm512_fmadd_ps(load(row[i] + offset), w, sums[i]);
    }
    static Vector dot_n(Vector sum, const float* row, const float* weights, int n) {
        return _mm512_fmadd_ps(load_n(row, n), load_n(weights, n), sum);
    }
    // Lane i is the sum over the lanes of sums[i].
    static Vector sums(const Vector* s) {
        __m512 quarter[4];  // [q]: in each 128-bit lane, partial sums of s[4q … 4q + 3]
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
            const __m512 *a = s + 4 * q, ab = pairs(a[0], a[1]), cd = pairs(a[2], a[3]);
            quarter[q] = _mm512_add_ps(
                _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))),
                _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))));
        }
        return across(across(quarter[0], quarter[1]), across(quarter[2], quarter[3]));
    }
    static __m512 pairs(__m512 a, __m512 b) {
        return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    }
    static __m512 across(__m512 a, __m512 b) {
        return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    }

    // Appends code + p to `kept` where values[p] > threshold, else to `skipped`; may write 15 more of each.
    static void list(const float* values, uint32_t count, float threshold, uint32_t code, uint32_t* kept,
                     uint32_t& kept_count, uint32_t* skipped, uint32_t& skipped_count) {
        const __m512 limit = _mm512_set1_ps(threshold);
        __m512i number = _mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(code)),
                                          _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        uint32_t k = kept_count, s = skipped_count;
        for (uint32_t p = 0; p < count; p += 16) {
            const __mmask16 there = first(static_cast<int>(count - p > 16 ? 16 : count - p));
            const __mmask16 keep = _mm512_mask_cmp_ps_mask(there, _mm512_maskz_loadu_ps(there, values + p), limit,
                                                           _CMP_GT_OQ);
            const __mmask16 skip = static_cast<__mmask16>(there & ~keep);
            // Compressed in a register: compressing into memory is slow on some processors.
            _mm512_storeu_si512(kept + k, _mm512_maskz_compress_epi32(keep, number));
            _mm512_storeu_si512(skipped + s, _mm512_maskz_compress_epi32(skip, number));
            k += static_cast<uint32_t>(__builtin_popcount(keep));
            s += static_cast<uint32_t>(__builtin_popcount(skip));
            number = _mm512_add_epi32(number, _mm512_set1_epi32(16));
        }
        kept_count = k;
        skipped_count = s;
    }

    template <int Rows, int Vectors>
    static void tile(const float* const* row, uint32_t runs, uint32_t run, size_t pitch, const float* weights,
                     float* sums) {
        sum_tile<Register, Rows, Vectors>(row, runs, run, pitch, weights, sums);
    }
};

// For processors that run 512-bit instructions in two halves: a tile one vector wide reads a line of input for every
// product, twice as much as they can load at full width. As two vectors of half the width each input serves two.
template <class Whole, class Half>
struct NarrowOf : Whole {
    using Element = typename Whole::Element;
    template <int Rows, int Vectors>
    static void tile(const Element* const* row, uint32_t runs, uint32_t run, size_t pitch, const Element* weights,
                     float* sums) {
        using Register = std::conditional_t<Vectors == 1, Half, typename Whole::Register>;
        sum_tile<Register, Rows, Vectors == 1 ? 2 : Vectors>(row, runs, run, pitch, weights, sums);
    }
};

using Avx512Narrow = NarrowOf<Avx512, Avx2Register>;

}  // namespace
}  // namespace lccl
