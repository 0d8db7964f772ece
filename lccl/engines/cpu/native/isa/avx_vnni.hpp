// AVX-VNNI: four products of int8 summed into int32, 6 rows × 2 vectors of 8 lanes. In the form of AVX-512 where the
// compiler may use that.
#pragma once

#include "avx2_int8.hpp"

namespace lccl {
namespace {

static inline int four_at(const uint8_t* source) {
    int four;
    __builtin_memcpy(&four, source, sizeof four);
    return four;
}

static inline __m256i add_products(__m256i sum, __m256i inputs, __m256i weights) {
#ifdef __AVX512VNNI__
    return _mm256_dpbusd_epi32(sum, inputs, weights);
#else
    return _mm256_dpbusd_avx_epi32(sum, inputs, weights);
#endif
}

struct AvxVnniRegister {
    using Sum = __m256i;
    using Weights = __m256i;
    static constexpr uint32_t lanes = 8, step = 4;

    static Sum zero() { return _mm256_setzero_si256(); }
    static Weights weights(const int8_t* source) { return bytes_at(source); }
    static void store(int32_t* target, Sum sum) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), sum); }
    template <int Vectors>
    static void add(Sum* sum, const uint8_t* input, const Weights* w) {
        const __m256i four = _mm256_set1_epi32(four_at(input));
        for (int v = 0; v < Vectors; ++v) sum[v] = add_products(sum[v], four, w[v]);
    }
    template <int Vectors>
    static void add_last(Sum*, const uint8_t*, const Weights*) {}
};

struct AvxVnni : Avx2Bytes {
    static constexpr uint32_t k_step = 4, dot_step = 32;

    static __m256i dot_inputs(const uint8_t* source) { return bytes_at(source); }
    static __m256i dot_weights(const int8_t* source) { return bytes_at(source); }
    static Integers dot(Integers sum, __m256i inputs, __m256i weights) { return add_products(sum, inputs, weights); }

    template <int Rows, int Vectors>
    static void tile(const uint8_t* const* row, uint32_t runs, uint32_t run, size_t pitch, const int8_t* weights,
                     int32_t* sums) {
        sum_tile<AvxVnniRegister, Rows, Vectors>(row, runs, (run + 3) / 4 * 4, pitch, weights, sums);
    }
};

}  // namespace
}  // namespace lccl
