// AVX2, int8: inputs are widened to 16 bits once for all panels, and pairs of products summed into int32.
//
// The instruction for bytes rounds sums of two products to 16 bits by saturating, which is not exact.
#pragma once

#include <cstring>

#include "../rounding.hpp"
#include "avx2.hpp"
#include "unfused.hpp"

namespace lccl {
namespace {

static inline __m256i bytes_at(const void* source) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(source));
}
static inline __m128i half_at(const void* source) { return _mm_loadu_si128(static_cast<const __m128i*>(source)); }

// What int8 needs of AVX2 beside the sums.
struct Avx2Bytes : UnfusedOf<Avx2, Avx2Register> {
    using Element = uint8_t;
    using Float = UnfusedOf<Avx2, Avx2Register>;
    using Integers = __m256i;
    static constexpr bool quantised = true, packs_pixels = false;

    static Integers each(int32_t value) { return _mm256_set1_epi32(value); }
    static Integers integers(const int32_t* source) { return bytes_at(source); }
    static Integers integers_n(const int32_t* source, int n) {
        return n >= 8 ? integers(source) : _mm256_maskload_epi32(source, first(n));
    }
    static Integers plus(Integers a, Integers b) { return _mm256_add_epi32(a, b); }
    static Vector to_float(Integers value) { return _mm256_cvtepi32_ps(value); }
    static Integers widened_n(const uint8_t* source, int n) {  // 0 beyond n
        if (n >= 8) return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source)));
        uint64_t bytes = 0;
        std::memcpy(&bytes, source, static_cast<size_t>(n));
        return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(bytes)));
    }
    static Vector load_n(const uint8_t* source, int n, int32_t zero) {
        const __m256i value = _mm256_sub_epi32(widened_n(source, n), each(zero));
        return to_float(n >= 8 ? value : _mm256_and_si256(value, first(n)));
    }
    static void store_n(uint8_t* target, Vector value, int n, int32_t zero) {
        const Vector low = zero ? broadcast(-127.0f) : Avx2::zero(), high = broadcast(zero ? 127.0f : 255.0f);
        const __m256i whole = plus(_mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(value, low), high)), each(zero));
        const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        const __m128i bytes = _mm_packus_epi16(words, words);
        if (n >= 8) return _mm_storel_epi64(reinterpret_cast<__m128i*>(target), bytes);
        const uint64_t stored = static_cast<uint64_t>(_mm_cvtsi128_si64(bytes));
        std::memcpy(target, &stored, static_cast<size_t>(n));
    }
    static void store_n(uint8_t* target, Vector value, int n) { store_n(target, value, n, 0); }
    // Lane i is the sum over the lanes of sums[i].
    static Integers sums(const Integers* s) {
        const __m256i low = _mm256_hadd_epi32(_mm256_hadd_epi32(s[0], s[1]), _mm256_hadd_epi32(s[2], s[3]));
        const __m256i high = _mm256_hadd_epi32(_mm256_hadd_epi32(s[4], s[5]), _mm256_hadd_epi32(s[6], s[7]));
        return plus(_mm256_permute2x128_si256(low, high, 0x20), _mm256_permute2x128_si256(low, high, 0x31));
    }

    struct Bytes {  // for max-pools
        static constexpr uint32_t lanes = 32;
        static __m256i load_n(const uint8_t* source, int n) {
            if (n >= 32) return bytes_at(source);
            uint8_t bytes[32] = {};
            std::memcpy(bytes, source, static_cast<size_t>(n));
            return bytes_at(bytes);
        }
        static __m256i max(__m256i a, __m256i b) { return _mm256_max_epu8(a, b); }
        static void store_n(uint8_t* target, __m256i value, int n) {
            uint8_t bytes[32];
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), value);
            std::memcpy(target, bytes, n >= 32 ? 32 : static_cast<size_t>(n));
        }
    };
};

struct Avx2Int8Register {
    using Sum = __m256i;
    using Weights = __m256i;
    static constexpr uint32_t lanes = 8, step = 2;

    static Sum zero() { return _mm256_setzero_si256(); }
    static Weights weights(const int8_t* source) { return _mm256_cvtepi8_epi16(half_at(source)); }
    static void store(int32_t* target, Sum sum) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), sum); }
    template <int Vectors>
    static void add(Sum* sum, const uint16_t* input, const Weights* w) {
        int two;
        __builtin_memcpy(&two, input, sizeof two);
        const __m256i pair = _mm256_set1_epi32(two);
        for (int v = 0; v < Vectors; ++v) sum[v] = _mm256_add_epi32(sum[v], _mm256_madd_epi16(pair, w[v]));
    }
    template <int Vectors>
    static void add_last(Sum*, const uint16_t*, const Weights*) {}
};

struct Avx2Int8 : Avx2Bytes {
    static constexpr uint32_t k_step = 2, dot_step = 16;
    static constexpr size_t packed_bytes = sizeof(uint16_t);
    static constexpr size_t gap = 64;  // bytes between packed rows, so that they do not share cache sets
    using Tile = void (*)(const uint16_t* const*, uint32_t, uint32_t, size_t, const int8_t*, int32_t*);

    struct Block {
        const uint16_t* row[rows];
        uint32_t count, length;
    };

    // Every kernel row with an even number of elements, as the weights are packed. Sixteen at once: what is written
    // beyond a row's end is written again or lies in a gap, and what is read beyond it meets weights of 0.
    static void prepare(Block& block, const uint8_t* const* row, uint32_t count, uint32_t runs, uint32_t run,
                        size_t pitch, char* base) {
        const uint32_t even = (run + 1) / 2 * 2;
        block.count = count;
        block.length = runs * even;
        const size_t length = round_up(block.length, 32) * sizeof(uint16_t) + gap;
        for (uint32_t n = 0; n < count; ++n) {
            uint16_t* const packed = reinterpret_cast<uint16_t*>(base + n * length);
            block.row[n] = packed;
            for (uint32_t r = 0; r < runs; ++r) {
                for (uint32_t e = 0; e < even; e += 16) {
                    _mm256_storeu_si256(reinterpret_cast<__m256i*>(packed + r * even + e),
                                        _mm256_cvtepu8_epi16(half_at(row[n] + r * pitch + e)));
                }
            }
        }
    }

    static void multiply(State&, const Block& block, uint32_t, uint32_t, size_t, const int8_t* weights, uint32_t vectors,
                         int32_t* sums) {
        static constexpr Tile tiles[rows][panel] = {{&tile<1, 1>, &tile<1, 2>}, {&tile<2, 1>, &tile<2, 2>},
                                                    {&tile<3, 1>, &tile<3, 2>}, {&tile<4, 1>, &tile<4, 2>},
                                                    {&tile<5, 1>, &tile<5, 2>}, {&tile<6, 1>, &tile<6, 2>}};
        tiles[block.count - 1][vectors - 1](block.row, 1, block.length, 0, weights, sums);
    }

    static __m256i dot_inputs(const uint8_t* source) { return _mm256_cvtepu8_epi16(half_at(source)); }
    static __m256i dot_weights(const int8_t* source) { return _mm256_cvtepi8_epi16(half_at(source)); }
    static Integers dot(Integers sum, __m256i inputs, __m256i weights) {
        return plus(sum, _mm256_madd_epi16(inputs, weights));
    }

    template <int Rows, int Vectors>
    static void tile(const uint16_t* const* row, uint32_t runs, uint32_t run, size_t pitch, const int8_t* weights,
                     int32_t* sums) {
        sum_tile<Avx2Int8Register, Rows, Vectors>(row, runs, run, pitch, weights, sums);
    }
};

}  // namespace
}  // namespace lccl
