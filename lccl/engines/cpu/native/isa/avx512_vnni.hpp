// AVX-512 VNNI: four products of int8 summed into int32, 12 rows × 2 vectors.
#pragma once

#include "avx512.hpp"
#include "avx_vnni.hpp"
#include "unfused.hpp"

namespace lccl {
namespace {

struct Avx512VnniRegister {
    using Sum = __m512i;
    using Weights = __m512i;
    static constexpr uint32_t lanes = 16, step = 4;

    static Sum zero() { return _mm512_setzero_si512(); }
    static Weights weights(const int8_t* source) { return _mm512_loadu_si512(source); }
    static void store(int32_t* target, Sum sum) { _mm512_storeu_si512(target, sum); }
    template <int Vectors>
    static void add(Sum* sum, const uint8_t* input, const Weights* w) {
        const __m512i four = _mm512_set1_epi32(four_at(input));
        for (int v = 0; v < Vectors; ++v) sum[v] = _mm512_dpbusd_epi32(sum[v], four, w[v]);
    }
    template <int Vectors>
    static void add_last(Sum*, const uint8_t*, const Weights*) {}
};

// What int8 needs of AVX-512 beside the sums.
struct Avx512Bytes : UnfusedOf<Avx512, Avx512Register> {
    using Element = uint8_t;
    using Float = UnfusedOf<Avx512, Avx512Register>;
    using Integers = __m512i;
    static constexpr bool quantised = true;
    static constexpr uint32_t k_step = 4;

    static Integers each(int32_t value) { return _mm512_set1_epi32(value); }
    static Integers integers(const int32_t* source) { return _mm512_loadu_si512(source); }
    static Integers integers_n(const int32_t* source, int n) { return _mm512_maskz_loadu_epi32(first(n), source); }
    static Integers plus(Integers a, Integers b) { return _mm512_add_epi32(a, b); }
    static Vector to_float(Integers value) { return _mm512_cvtepi32_ps(value); }
    static Integers widened_n(const uint8_t* source, int n) {  // 0 beyond n
        return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first(n), source));
    }
    static Vector load_n(const uint8_t* source, int n, int32_t zero) {
        return to_float(_mm512_maskz_sub_epi32(first(n), widened_n(source, n), each(zero)));
    }
    static void store_n(uint8_t* target, Vector value, int n, int32_t zero, float low, float high) {
        value = _mm512_min_ps(_mm512_max_ps(value, broadcast(low)), broadcast(high));
        const __m128i bytes = _mm512_cvtepi32_epi8(plus(_mm512_cvtps_epi32(value), each(zero)));
        if (n >= 16) return _mm_storeu_si128(reinterpret_cast<__m128i*>(target), bytes);
        _mm_mask_storeu_epi8(target, first(n), bytes);
    }
    // Lane i is the sum over the lanes of sums[i].
    static Integers sums(const Integers* s) {
        __m512i quarter[4];  // [q]: in each 128-bit lane, partial sums of s[4q … 4q + 3]
#pragma GCC unroll 4
        for (int q = 0; q < 4; ++q) {
            const __m512i *a = s + 4 * q, ab = pairs_of(a[0], a[1]), cd = pairs_of(a[2], a[3]);
            quarter[q] = plus(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
        }
        return across_of(across_of(quarter[0], quarter[1]), across_of(quarter[2], quarter[3]));
    }
    static __m512i pairs_of(__m512i a, __m512i b) {
        return plus(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    }
    static __m512i across_of(__m512i a, __m512i b) {
        return plus(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
    }

    struct Bytes {  // for max-pools
        static constexpr uint32_t lanes = 64;
        static __mmask64 first(int n) { return n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1; }
        static __m512i load_n(const uint8_t* source, int n) { return _mm512_maskz_loadu_epi8(first(n), source); }
        static __m512i max(__m512i a, __m512i b) { return _mm512_max_epu8(a, b); }
        static void store_n(uint8_t* target, __m512i value, int n) {
            _mm512_mask_storeu_epi8(target, first(n), value);
        }
    };
};

struct Avx512Vnni : Avx512Bytes {
    using Register = Avx512VnniRegister;
    static constexpr uint32_t dot_step = 64;

    static __m512i dot_inputs(const uint8_t* source) { return _mm512_loadu_si512(source); }
    static __m512i dot_weights(const int8_t* source) { return _mm512_loadu_si512(source); }
    static Integers dot(Integers sum, __m512i inputs, __m512i weights) {
        return _mm512_dpbusd_epi32(sum, inputs, weights);
    }

    template <int Rows, int Vectors>
    static void tile(const uint8_t* const* row, uint32_t runs, uint32_t run, size_t pitch, const int8_t* weights,
                     int32_t* sums) {
        sum_tile<Register, Rows, Vectors>(row, runs, (run + 3) / 4 * 4, pitch, weights, sums);
    }
};

struct Avx512VnniNarrow : Avx512Vnni {
    template <int Rows, int Vectors>
    static void tile(const uint8_t* const* row, uint32_t runs, uint32_t run, size_t pitch, const int8_t* weights,
                     int32_t* sums) {
        using Register = std::conditional_t<Vectors == 1, AvxVnniRegister, Avx512VnniRegister>;
        sum_tile<Register, Rows, Vectors == 1 ? 2 : Vectors>(row, runs, (run + 3) / 4 * 4, pitch, weights, sums);
    }
};

}  // namespace
}  // namespace lccl
