// AVX2 and FMA, float32: 8 lanes, tiles of 6 rows × 2 vectors (12 of 16 registers hold sums).
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "common.hpp"
#include "tile.hpp"

namespace lccl {
namespace {

struct Avx2Register {
    using Element = float;
    using Sum = __m256;
    using Weights = __m256;
    static constexpr uint32_t lanes = 8, step = 1;

    static Sum zero() { return _mm256_setzero_ps(); }
    static Weights weights(const float* source) { return _mm256_loadu_ps(source); }
    static void store(float* target, Sum sum) { _mm256_storeu_ps(target, sum); }
    template <int Vectors>
    static void add(Sum* sum, const float* input, const Weights* w) {
        const __m256 value = _mm256_broadcast_ss(input);
        for (int v = 0; v < Vectors; ++v) sum[v] = _mm256_fmadd_ps(value, w[v], sum[v]);
    }
    template <int Vectors>
    static void add_last(Sum*, const float*, const Weights*) {}
};

struct Avx2 : Common {
    using Element = float;
    using Float = Avx2;
    using Vector = __m256;
    static constexpr uint32_t lanes = 8, panel = 2, rows = 6, dot_step = 8, chunk = 16;

    static __m256i first(int n) {
        return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    }
    static Vector zero() { return _mm256_setzero_ps(); }
    static Vector broadcast(float value) { return _mm256_set1_ps(value); }
    static Vector load(const float* source) { return _mm256_loadu_ps(source); }
    static Vector load_n(const float* source, int n) {
        return n >= 8 ? load(source) : _mm256_maskload_ps(source, first(n));
    }
    static void store(float* target, Vector value) { _mm256_storeu_ps(target, value); }
    static void store_n(float* target, Vector value, int n) {
        n >= 8 ? store(target, value) : _mm256_maskstore_ps(target, first(n), value);
    }
    static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
    static Vector mul(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
    static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
    static Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }  // b where either is NaN
    static Vector where_greater(Vector value, Vector threshold, Vector then) {  // −1 elsewhere
        return _mm256_blendv_ps(_mm256_set1_ps(-1.0f), then, _mm256_cmp_ps(value, threshold, _CMP_GT_OQ));
    }
    static Vector where_not_negative(Vector value, Vector then) {  // 0 elsewhere
        return _mm256_andnot_ps(_mm256_cmp_ps(value, zero(), _CMP_LT_OQ), then);
    }

    // sums[i] += row[i][offset …] · weights, lane by lane.
    static void dots(Vector* sums, const float* const* row, size_t offset, const float* weights) {
        const __m256 w = load(weights);
#pragma GCC unroll 8
        for (uint32_t i = 0; i < lanes; ++i) sums[i] = _mm256_fmadd_ps(load(row[i] + offset), w, sums[i]);
    }
    static Vector dot_n(Vector sum, const float* row, const float* weights, int n) {
        return _mm256_fmadd_ps(load_n(row, n), load_n(weights, n), sum);
    }
    // Lane i is the sum over the lanes of sums[i].
    static Vector sums(const Vector* s) {
        const __m256 low = _mm256_hadd_ps(_mm256_hadd_ps(s[0], s[1]), _mm256_hadd_ps(s[2], s[3]));
        const __m256 high = _mm256_hadd_ps(_mm256_hadd_ps(s[4], s[5]), _mm256_hadd_ps(s[6], s[7]));
        return _mm256_add_ps(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
    }

    template <int Rows, int Vectors>
    static void tile(const float* const* row, uint32_t runs, uint32_t run, size_t pitch, const float* weights,
                     float* sums) {
        sum_tile<Avx2Register, Rows, Vectors>(row, runs, run, pitch, weights, sums);
    }
};

}  // namespace
}  // namespace lccl
