// The values of skipped rows, and borders: written where they are not in memory already.
#pragma once

#include "../kernels.hpp"
#include "maps.hpp"
#include "parts.hpp"
#include "values.hpp"

namespace lccl {

template <class Isa>
struct Skipped {
    using Element = typename Isa::Element;
    using Vector = typename Isa::Vector;
    using Float = typename Isa::Float;
    using Value = Values<Isa>;
    static constexpr uint32_t lanes = Isa::lanes;

    // Skipped rows of a raw output without a residual hold zeros. Where rows are short, one sweep over the whole map is
    // cheaper than many of them.
    static bool are_cleared(const ConvolveStep& step) {
        return step.raw != kNone && step.residual == kNone && step.out_channels * sizeof(Element) <= 128;
    }

    // Borders, or a whole map, a share for each worker. An output in its residual's storage has its border already.
    static void clear_outputs(const ConvolveStep& step, const Work& work, bool whole_raw) {
        for (uint32_t image = 0; image < work.count; ++image) {
            if (step.raw != kNone && whole_raw) {
                const Map& map = work.maps[step.raw];
                const uint32_t lines = map.height + 2 * map.pad, workers = work.threads->size();
                const uint32_t first = cut(lines, work.worker, workers), last = cut(lines, work.worker + 1, workers);
                clear<Isa>(at<Isa>(work, step.raw, image) + first * size_t{map.pitch()},
                           (last - first) * size_t{map.pitch()}, map.zero);
            } else if (step.raw != kNone && !step.in_place && !work.worker) {
                clear_border<Isa>(work, step.raw, image);
            }
            const bool there_already = step.in_place && step.raw == kNone;
            if (step.activated == kNone || there_already || work.worker) continue;
            clear_border<Isa>(work, step.activated, image);
        }
    }

    // Skipped rows [first, last), in whole vectors.
    static void clear_rows(const ConvolveStep& step, const Work& work, uint32_t channel, uint32_t channels,
                           uint32_t first, uint32_t last) {
        constexpr uint32_t kAhead = 8;  // rows
        const size_t bytes = channels * sizeof(Element);
        for (uint32_t n = first; n < last; ++n) {
            if (n + kAhead < last) {
                const Element* next = raw_row(step, work, work.scratch.skipped[n + kAhead]) + channel;
                for (size_t byte = 0; byte < bytes; byte += 64) {
                    __builtin_prefetch(reinterpret_cast<const char*>(next) + byte, 1);
                }
            }
            clear<Isa>(raw_row(step, work, work.scratch.skipped[n]) + channel, channels, work.maps[step.raw].zero);
        }
    }

    static Element* raw_row(const ConvolveStep& step, const Work& work, uint32_t code) {
        return at<Isa>(work, step.raw, code >> kPositionBits) + step.raw_offset[code & kPositionMask];
    }

    // A worker's share of the skipped rows' values: the residual, or the step's fill.
    static void fill(const ConvolveStep& step, const Work& work, uint32_t group, uint32_t skipped, bool zeroed) {
        const bool write_raw = step.raw != kNone && !step.in_place && !zeroed;
        const bool write_activated = step.activated != kNone;
        if (!write_raw && !write_activated) return;
        const uint32_t share = step.out_channels / step.groups, channel = group * share;
        const uint32_t residual_channels = step.residual == kNone ? 0 : work.maps[step.residual].channels;
        const uint32_t workers = work.threads->size();
        const uint32_t first = cut(skipped, work.worker, workers), last = cut(skipped, work.worker + 1, workers);
        if (write_raw && !write_activated && step.residual == kNone && share % lanes == 0) {
            return clear_rows(step, work, channel, share, first, last);
        }
        const typename Value::Coding residual_coding(work, step.residual), raw_coding(work, step.raw),
            activated_coding(work, step.activated);
        for (uint32_t n = first; n < last; ++n) {
            const uint32_t code = work.scratch.skipped[n], image = code >> kPositionBits;
            const uint32_t position = code & kPositionMask;
            for (uint32_t c = channel; c < channel + share; c += lanes) {
                const int valid = static_cast<int>(smaller(lanes, channel + share - c));
                Vector value = Isa::zero();
                if (residual_channels > c) {
                    value = Value::load_n(at<Isa>(work, step.residual, image) + step.residual_offset[position] + c,
                                          static_cast<int>(smaller(valid, residual_channels - c)), residual_coding);
                    value = Value::in_units(value, step.residual_scale);
                }
                if (write_raw) {
                    Value::store_n(at<Isa>(work, step.raw, image) + step.raw_offset[position] + c, value, valid,
                                   raw_coding);
                }
                if (write_activated) {
                    if (step.activated_scale) {
                        value = Value::affine(value, Float::load_n(step.activated_scale + c, valid),
                                              Float::load_n(step.activated_shift + c, valid));
                    }
                    value = Value::positive(value);
                    Value::store_n(at<Isa>(work, step.activated, image) + step.activated_offset[position] + c, value,
                                   valid, activated_coding);
                }
            }
        }
    }
};

}  // namespace lccl
