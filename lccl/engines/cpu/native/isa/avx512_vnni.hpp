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

// Large weights come from the third-level cache more slowly than they are used: processors do not look that far ahead.
struct Avx512VnniAheadRegister : Avx512VnniRegister {
    static Weights weights(const int8_t* source) {
        __builtin_prefetch(source + kAhead);
        return Avx512VnniRegister::weights(source);
    }
    static constexpr size_t kAhead = size_t{8} << 10;
};

// What int8 needs of AVX-512 beside the sums.
struct Avx512Bytes : UnfusedOf<Avx512, Avx512Register> {
    using Element = uint8_t;
    using Float = UnfusedOf<Avx512, Avx512Register>;
    using Integers = __m512i;
    static constexpr bool quantised = true, packs_pixels = true;
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
    static void store_n(uint8_t* target, Vector value, int n, int32_t zero) {
        const Vector low = broadcast(zero ? -127.0f : 0.0f), high = broadcast(zero ? 127.0f : 255.0f);
        const __m512i whole = _mm512_cvtps_epi32(_mm512_min_ps(_mm512_max_ps(value, low), high));
        store_bytes(target, _mm512_cvtepi32_epi8(plus(whole, each(zero))), n);
    }
    static void store_n(uint8_t* target, Vector value, int n) {  // what no integer holds becomes 255 too
        const __m512i whole = _mm512_cvtps_epi32(_mm512_max_ps(value, Avx512::zero()));
        store_bytes(target, _mm512_cvtusepi32_epi8(whole), n);
    }
    static void store_bytes(uint8_t* target, __m128i bytes, int n) {
        if (n >= 16) return _mm_storeu_si128(reinterpret_cast<__m128i*>(target), bytes);
        _mm_mask_storeu_epi8(target, first(n), bytes);
    }
    // Lane i is the sum over the lanes of sums[i].
    static Integers sums(const Integers* s) {
        const __m512i low = across_of(quarters_of(s), quarters_of(s + 4));
        return across_of(low, across_of(quarters_of(s + 8), quarters_of(s + 12)));
    }
    // The same where each of sums holds 64 / Channels positions, one beside the other.
    template <uint32_t Channels>
    static Integers sums_of(const Integers* s) {
        if constexpr (Channels == 16) {
            const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            return _mm512_permutexvar_epi32(order, quarters_of(s));
        } else {
            const __m512i order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
            return _mm512_permutexvar_epi32(order, across_of(quarters_of(s), quarters_of(s + 4)));
        }
    }
    // In each 128-bit lane, its sums of s[0 … 3].
    static __m512i quarters_of(const Integers* s) {
        const __m512i ab = pairs_of(s[0], s[1]), cd = pairs_of(s[2], s[3]);
        return plus(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
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
    template <uint32_t Channels>
    static __m512i repeated(const int8_t* source) {  // a pixel's weights, for several pixels
        if constexpr (Channels == 16) {
            return _mm512_broadcast_i32x4(half_at(source));
        } else {
            return _mm512_broadcast_i64x4(bytes_at(source));
        }
    }
    static Integers dot(Integers sum, __m512i inputs, __m512i weights) {
        return _mm512_dpbusd_epi32(sum, inputs, weights);
    }

    template <int Rows, int Vectors>
    static void tile(const uint8_t* const* row, uint32_t runs, uint32_t run, size_t pitch, const int8_t* weights,
                     int32_t* sums) {
        using Ahead = std::conditional_t<Vectors == 1, Register, Avx512VnniAheadRegister>;
        sum_tile<Ahead, Rows, Vectors>(row, runs, (run + 3) / 4 * 4, pitch, weights, sums);
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
