// Scale, shift, ReLU, gate, residual: from a tile of sums to the step's outputs.
#pragma once

#include <cmath>
#include <utility>

#include "../kernels.hpp"
#include "cells.hpp"
#include "parts.hpp"
#include "values.hpp"

namespace lccl {

template <class Isa>
struct Finish {
    using Element = typename Isa::Element;
    using Vector = typename Isa::Vector;
    using Float = typename Isa::Float;
    using Value = Values<Isa>;
    using Sum = SumOf<Isa>;
    static constexpr uint32_t lanes = Isa::lanes;

    // Where the rows of a tile go and what they are combined with.
    struct Rows {
        Element *raw[Isa::rows], *activated[Isa::rows];
        const Element* residual[Isa::rows];  // unless it is where the output goes
        float gate[Isa::rows];
        uint32_t count;
    };

    struct Part {  // of the output channels
        uint32_t channel, channels, vectors, slot;
    };

    using Function = void (*)(const ConvolveStep&, const Work&, const Rows&, const Part&, const Sum*);

    static Function chosen(const ConvolveStep& step, const Work& work) {
        const int gate = step.gate.layer == kNone ? 0 : step.gate.per_cell ? 2 : 1;
        const int outputs = step.activated == kNone ? 0 : step.raw == kNone ? 1 : 2;
        const bool whole = step.out_channels / step.groups % lanes == 0 &&
                           (step.residual == kNone || work.maps[step.residual].channels == step.out_channels);
        const int plain = Value::is_plain(step, work);
        return from_table(std::make_integer_sequence<int, 72>{},
                          (((plain * 2 + whole) * 3 + gate) * 2 + (step.residual != kNone)) * 3 + outputs);
    }

    template <int... N>
    static Function from_table(std::integer_sequence<int, N...>, int number) {
        static constexpr Function table[] = {
            &finish<Isa::quantised && N / 36 == 1, N / 18 % 2 == 1, N / 6 % 3, N / 3 % 2 == 1, N % 3 != 1,
                    N % 3 != 0>...};
        return table[number];
    }

    // Plain: see Values. Whole: nothing but whole vectors. Gate: 0 none, 1 a value per row, 2 a value per cell.
    template <bool Plain, bool Whole, int Gate, bool Residual, bool Raw, bool Activated>
    static void finish(const ConvolveStep& step, const Work& work, const Rows& rows, const Part& part,
                       const Sum* sums) {
        const Vector zero = Isa::zero(), least = step.relu ? zero : Isa::broadcast(-INFINITY);
        const uint32_t residual_channels = Residual ? work.maps[step.residual].channels : 0;
        const typename Value::Coding residual_coding(work, step.residual), raw_coding(work, step.raw),
            activated_coding(work, step.activated);
        const float residual_scale = step.residual_scale;
        const uint32_t count = rows.count, vectors = part.vectors;  // the compiler cannot know that no element is these
        const Element* const* const residual = !step.in_place ? rows.residual : Raw ? rows.raw : rows.activated;
        for (uint32_t v = 0; v < vectors; ++v) {
            const uint32_t channel = part.channel + v * lanes;
            const int valid = Whole ? lanes : static_cast<int>(smaller(lanes, part.channels - v * lanes));
            const int added = Whole ? lanes : channels_of(residual_channels, channel, valid);
            const typename Value::Correction correction(step.correction, channel, valid);
            const Vector scale = affine(step.scale, channel, valid, 1.0f);
            const Vector shift = affine(step.shift, channel, valid, 0.0f);
            const Vector next_scale = Activated ? affine(step.activated_scale, channel, valid, 1.0f) : zero;
            const Vector next_shift = Activated ? affine(step.activated_shift, channel, valid, 0.0f) : zero;
            for (uint32_t n = 0; n < count; ++n) {
                Vector value = Value::template of_sums<Plain>(sums + (n * vectors + v) * lanes, correction);
                value = Value::affine(value, scale, shift);
                // What is stored next as at least 0 needs no ReLU before: gates are not negative.
                if constexpr (!Plain || Residual) value = Isa::max(least, value);
                if constexpr (Gate == 1) value = Isa::mul(value, Isa::broadcast(rows.gate[n]));
                if constexpr (Gate == 2) {
                    const Vector gate = Cells<Isa>::spread(step, work, part.slot * Isa::rows + n, channel, valid);
                    value = Isa::where_not_negative(gate, Isa::mul(value, gate));
                }
                if constexpr (Residual) {
                    Vector shortcut = Value::template load_n<Plain>(residual[n] + channel, added, residual_coding);
                    shortcut = Value::template in_units<Plain>(shortcut, residual_scale);
                    value = Isa::add(value, shortcut);
                }
                if constexpr (Raw) Value::template store_n<Plain>(rows.raw[n] + channel, value, valid, raw_coding);
                if constexpr (Activated) {
                    value = Value::template activated<Plain>(value, next_scale, next_shift);
                    Value::template store_n<Plain>(rows.activated[n] + channel, value, valid, activated_coding);
                }
            }
        }
    }

    // How many of a vector's channels a narrower residual has.
    static int channels_of(uint32_t residual_channels, uint32_t channel, int valid) {
        return residual_channels > channel ? static_cast<int>(smaller(valid, residual_channels - channel)) : 0;
    }

    static Vector affine(const float* values, size_t channel, int valid, float absent) {
        return values ? Float::load_n(values + channel, valid) : Isa::broadcast(absent);
    }
};

}  // namespace lccl
