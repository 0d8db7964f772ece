// float32 values of what maps and sums hold: themselves, or in int8 what their integers stand for.
#pragma once

#include "../kernels.hpp"

namespace lccl {

template <class Isa, bool Quantised = Isa::quantised>
struct Values {
    using Element = typename Isa::Element;
    using Vector = typename Isa::Vector;
    using Float = typename Isa::Float;
    using Dots = Vector;  // sums of products, lane by lane

    struct Coding {  // of a buffer's elements
        Coding(const Work&, int) {}
    };
    struct Correction {  // of sums
        Correction(const int32_t*, uint32_t, int) {}
    };

    static bool is_plain(const ConvolveStep&, const Work&) { return false; }
    template <bool = false>
    static Vector load_n(const Element* source, int n, const Coding&) {
        return Isa::load_n(source, n);
    }
    template <bool = false>
    static void store_n(Element* target, Vector value, int n, const Coding&) {
        Isa::store_n(target, value, n);
    }
    static Vector affine(Vector value, Vector scale, Vector shift) { return Isa::fma(value, scale, shift); }
    static Vector positive(Vector value) { return Isa::max(Isa::zero(), value); }
    template <bool>
    static Vector activated(Vector value, Vector scale, Vector shift) {
        return positive(Isa::fma(value, scale, shift));
    }
    template <bool = false>
    static Vector in_units(Vector value, float) {
        return value;
    }
    template <bool = false>
    static Vector of_sums(const float* sums, const Correction&) {
        return Float::load(sums);
    }

    // Of gates.
    static constexpr bool packs_pixels = false, shares_inputs = Isa::dot_step == Isa::lanes;
    static Dots no_dots() { return Isa::zero(); }
    static Vector dot_inputs(const Element* source) { return Isa::load(source); }
    static Vector dot_weights(const Element* source) { return Isa::load(source); }
    static Dots dot(Dots sum, Vector inputs, Vector weights) { return Isa::fma(inputs, weights, sum); }
    static void dots(Dots* sums, const Element* const* row, size_t offset, const Element* weights) {
        Isa::dots(sums, row, offset, weights);
    }
    static Dots dot_n(Dots sum, const Element* row, const Element* weights, int n) {
        return Isa::dot_n(sum, row, weights, n);
    }
    static Vector of_dots(const Dots* sums, int32_t) { return Isa::sums(sums); }

    // Of pools.
    using Stored = Isa;
    static Dots plus(Dots sum, const Element* source, int n) { return Isa::add(sum, Isa::load_n(source, n)); }
    static Vector of_total(Dots sum, uint32_t, uint8_t) { return sum; }
};

// Products and sums are rounded one by one, so that every instruction set gives the same bits.
template <class Isa>
struct Values<Isa, true> {
    using Vector = typename Isa::Vector;
    using Integers = typename Isa::Integers;
    using Dots = Integers;

    struct Coding {
        Coding(const Work& work, int buffer) : zero(buffer == kNone ? 0 : work.maps[buffer].zero) {}
        int32_t zero;  // 0 or 128
    };
    struct Correction {
        Correction(const int32_t* values, uint32_t first, int n)
            : each(values ? Isa::integers_n(values + first, n) : Isa::each(0)) {}
        Integers each;
    };

    // Whether nothing is signed and all is in one unit, as in most steps: much of the arithmetic changes nothing then.
    // What takes something off its inputs corrects all sums.
    static bool is_plain(const ConvolveStep& step, const Work& work) {
        const auto zero_of = [&](int buffer) { return Coding(work, buffer).zero; };
        return (Isa::taken_off || !step.correction) && step.residual_scale == 1.0f && !step.activated_scale && !zero_of(step.residual) &&
               !zero_of(step.raw);
    }
    template <bool Plain = false>
    static Vector load_n(const uint8_t* source, int n, const Coding& coding) {
        return Plain ? Isa::to_float(Isa::widened_n(source, n)) : Isa::load_n(source, n, coding.zero);
    }
    template <bool Plain = false>
    static void store_n(uint8_t* target, Vector value, int n, const Coding& coding) {
        Plain ? Isa::store_n(target, value, n) : Isa::store_n(target, value, n, coding.zero);
    }
    static Vector affine(Vector value, Vector scale, Vector shift) { return Isa::add(Isa::mul(value, scale), shift); }
    static Vector positive(Vector value) { return value; }  // an activated buffer's least element stands for 0
    template <bool Plain>
    static Vector activated(Vector value, Vector scale, Vector shift) {
        return Plain ? value : affine(value, scale, shift);
    }
    template <bool Plain = false>
    static Vector in_units(Vector value, float scale) {
        return Plain ? value : Isa::mul(value, Isa::broadcast(scale));
    }
    template <bool Plain = false>
    static Vector of_sums(const int32_t* sums, const Correction& correction) {
        const Integers exact = Isa::integers(sums);
        return Isa::to_float(Plain && !Isa::taken_off ? exact : Isa::plus(exact, correction.each));
    }

    // Of gates.
    static constexpr bool packs_pixels = Isa::packs_pixels, shares_inputs = true;
    static Dots no_dots() { return Isa::each(0); }
    static auto dot_inputs(const uint8_t* source) { return Isa::dot_inputs(source); }
    static auto dot_weights(const int8_t* source) { return Isa::dot_weights(source); }
    template <class Inputs, class Weights>
    static Dots dot(Dots sum, Inputs inputs, Weights weights) {
        return Isa::dot(sum, inputs, weights);
    }
    static void dots(Dots* sums, const uint8_t* const* row, size_t offset, const int8_t* weights) {
        const auto w = dot_weights(weights);
#pragma GCC unroll 16
        for (uint32_t i = 0; i < Isa::lanes; ++i) sums[i] = dot(sums[i], dot_inputs(row[i] + offset), w);
    }
    static Dots dot_n(Dots sum, const uint8_t*, const int8_t*, int) { return sum; }  // dots() reads beyond a run
    static Vector of_dots(const Dots* sums, int32_t correction) { return of_dots(Isa::sums(sums), correction); }
    static Vector of_dots(Dots sums, int32_t correction) {
        return Isa::to_float(Isa::plus(sums, Isa::each(correction)));
    }

    // Of pools.
    using Stored = typename Isa::Bytes;
    static Dots plus(Dots sum, const uint8_t* source, int n) { return Isa::plus(sum, Isa::widened_n(source, n)); }
    static Vector of_total(Dots sum, uint32_t count, uint8_t zero) {
        return Isa::to_float(Isa::plus(sum, Isa::each(-static_cast<int32_t>(count * zero))));
    }
};

}  // namespace lccl
