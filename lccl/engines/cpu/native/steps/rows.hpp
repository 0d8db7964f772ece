// The rows of a list: pointed at, multiplied tile by tile, finished and counted.
#pragma once

#include "../kernels.hpp"
#include "cells.hpp"
#include "finish.hpp"
#include "maps.hpp"
#include "parts.hpp"
#include "tiles.hpp"

namespace lccl {

template <class Isa>
struct ListedRows {
    using Element = typename Isa::Element;
    using Rows = typename Finish<Isa>::Rows;
    static constexpr uint32_t lanes = Isa::lanes;

    // One group of output channels: chunk by chunk, a panel of weights for all tiles of the chunk.
    static void run(const ConvolveStep& step, Work& work, uint32_t group, uint32_t count) {
        const uint32_t quanta = ceil_div(count, Isa::row_quantum);
        const uint32_t tiles = ceil_div(quanta, Isa::rows / Isa::row_quantum);
        const uint32_t chunk = step.heavy ? Isa::chunk : 1, chunks = ceil_div(tiles, chunk);
        const uint32_t size = tiles ? quanta / tiles : 0, larger = tiles ? quanta % tiles : 0;
        const uint32_t vectors = ceil_div(step.out_channels / step.groups, lanes);
        const uint32_t panels = ceil_div(vectors, Isa::panel);
        const bool cells = step.gate.layer != kNone && step.gate.per_cell;
        // Of large weights each worker takes some panels; where rows are packed for these, as few times as may be.
        const uint32_t workers = work.threads->size(), most = Isa::packed_bytes ? workers : panels;
        const uint32_t slices = step.heavy && workers > 1 && !cells ? smaller(panels, most) : 1;
        const uint32_t parts = step.heavy ? chunks : tasks_for(chunks, *work.threads, 2);
        typename Isa::State state;
        work.threads->share(work.round, work.worker, count ? parts * slices : 0, [&](uint32_t task) {
            const uint32_t part = task % parts, slice = task / parts;  // a panel's weights stay with one worker
            for (uint32_t c = cut(chunks, part, parts); c < cut(chunks, part + 1, parts); ++c) {
                const Span span{count, size, larger, cut(tiles, c, chunks), cut(tiles, c + 1, chunks)};
                one_chunk(step, work, state, group, span, cut(panels, slice, slices), cut(panels, slice + 1, slices));
            }
        });
        state.release();
        if (work.worker) return;
        count_executed(step, work, count, vectors);
    }

    // Tiles [first, last) of `count` rows: the first `larger` tiles of all have size + 1 quanta, the others size.
    struct Span {
        uint32_t count, size, larger, first, last;
        uint32_t begin(uint32_t tile) const { return (tile * size + smaller(tile, larger)) * Isa::row_quantum; }
        uint32_t end(uint32_t tile) const { return smaller(count, begin(tile + 1)); }
    };

    static void one_chunk(const ConvolveStep& step, Work& work, typename Isa::State& state, uint32_t group,
                          const Span& span, uint32_t first_panel, uint32_t last_panel) {
        const uint32_t share = step.out_channels / step.groups, vectors = ceil_div(share, lanes);
        const size_t pitch = work.maps[step.input].pitch();
        const bool cells = step.gate.layer != kNone && step.gate.per_cell;
        const WeightOf<Isa>* weights = static_cast<const WeightOf<Isa>*>(step.weights) + group * step.group_weights;
        typename Tiles<Isa>::Block block[Isa::chunk];
        Rows rows[Isa::chunk];
        for (uint32_t tile = span.first; tile < span.last; ++tile) {
            const uint32_t begin = span.begin(tile), count = span.end(tile) - begin, slot = tile - span.first;
            const Element* input[Isa::rows];
            point_at(step, work, group, begin, count, input, rows[slot]);
            Tiles<Isa>::prepare(block[slot], input, count, step.runs, step.run, pitch, packed_at(work, slot));
            fetch_ahead(step, work, begin + count, smaller(span.count, begin + 2 * count));
            if (cells) Cells<Isa>::find(step, work, state, slot, begin, count);
        }
        alignas(64) SumOf<Isa> sums[Isa::rows * Isa::panel * lanes];
        const auto finish = Finish<Isa>::chosen(step, work);
        for (uint32_t panel = first_panel; panel < last_panel; ++panel) {
            const uint32_t vector = panel * Isa::panel, taken = smaller(Isa::panel, vectors - vector);
            const WeightOf<Isa>* packed = weights + vector * step.vector_weights;
            for (uint32_t slot = 0; slot < span.last - span.first; ++slot) {
                Tiles<Isa>::multiply(state, block[slot], step.runs, step.run, pitch, packed, taken, sums);
                const typename Finish<Isa>::Part part{group * share + vector * lanes,
                                                      smaller(taken * lanes, share - vector * lanes), taken, slot};
                finish(step, work, rows[slot], part, sums);
            }
        }
    }

    // The inputs that the next rows read and these do not: their last pixel in the last kernel row. Maps that fit the
    // first-level cache are in it already.
    static void fetch_ahead(const ConvolveStep& step, const Work& work, uint32_t first, uint32_t last) {
        const Map& map = work.maps[step.input];
        const uint32_t bytes = step.in_channels * sizeof(Element);
        if (first >= last || size_t{map.height} * map.width * bytes < (size_t{24} << 10)) return;
        const size_t corner = (step.runs - 1) * size_t{map.pitch()} + step.run - step.in_channels;
        const uint32_t image = work.scratch.kept[first] >> kPositionBits;
        const Element* base = at<Isa>(work, step.input, image) + corner;
        for (uint32_t n = first; n < last; ++n) {
            const uint32_t code = work.scratch.kept[n];
            if (code >> kPositionBits != image) return;
            const char* pixel = reinterpret_cast<const char*>(base + step.offset[code & kPositionMask]);
            for (uint32_t line = 0; line < bytes; line += 64) __builtin_prefetch(pixel + line);
        }
    }

    // Where the inputs and outputs of rows [begin, begin + count) of the list lie.
    static void point_at(const ConvolveStep& step, const Work& work, uint32_t group, uint32_t begin, uint32_t count,
                         const Element** input, Rows& rows) {
        rows.count = count;
        const uint32_t* codes = work.scratch.kept + begin;
        for (uint32_t n = 0, last; n < count; n = last) {  // the rows of one image after those of another
            const uint32_t image = codes[n] >> kPositionBits;
            last = last_of_image(codes, n, count);
            const bool raw = step.raw != kNone;
            const Element* const from = at<Isa>(work, step.input, image);
            Element* const to = at<Isa>(work, raw ? step.raw : step.activated, image);
            Element** const output = raw ? rows.raw : rows.activated;
            const uint32_t *const from_offset = step.offset, *const to_offset =
                                                                 raw ? step.raw_offset : step.activated_offset;
            const float* const gates = rows_have_gates(step) ? gates_of(step, work, image, group) : nullptr;
            for (uint32_t m = n; m < last; ++m) {
                const uint32_t position = codes[m] & kPositionMask;
                input[m] = from + from_offset[position];
                output[m] = to + to_offset[position];
                if (gates) rows.gate[m] = gates[position];
            }
            if (raw && step.activated != kNone) {
                add_offsets(at<Isa>(work, step.activated, image), step.activated_offset, codes, n, last,
                            rows.activated);
            }
            if (step.residual != kNone && !step.in_place) {
                add_offsets(at<Isa>(work, step.residual, image), step.residual_offset, codes, n, last, rows.residual);
            }
        }
    }

    static bool rows_have_gates(const ConvolveStep& step) { return step.gate.layer != kNone && !step.gate.per_cell; }

    static const float* gates_of(const ConvolveStep& step, const Work& work, uint32_t image, uint32_t group) {
        return work.gates + (size_t{image} * step.gate.groups + group) * step.positions;
    }

    template <class Base, class Pointer>
    static void add_offsets(Base base, const uint32_t* offset, const uint32_t* codes, uint32_t first, uint32_t last,
                            Pointer* row) {
        for (uint32_t n = first; n < last; ++n) row[n] = base + offset[codes[n] & kPositionMask];
    }

    // Where the rows of the image that row n is of end.
    static uint32_t last_of_image(const uint32_t* codes, uint32_t n, uint32_t count) {
        const uint32_t image = codes[n] >> kPositionBits;
        if (codes[count - 1] >> kPositionBits == image) return count;
        while (codes[n] >> kPositionBits == image) ++n;
        return n;
    }

    static void count_executed(const ConvolveStep& step, const Work& work, uint32_t count, uint32_t vectors) {
        const int64_t row = int64_t{vectors} * lanes * step.runs * ceil_div(step.run, Isa::k_step) * Isa::k_step;
        int64_t cells = 0;
        if (step.gate.layer != kNone && step.gate.per_cell) {
            cells = int64_t{ceil_div(step.gate.groups, lanes)} * lanes * step.gate.runs *
                    ceil_div(step.gate.run, Isa::k_step) * Isa::k_step;
        }
        uint32_t n = 0;
        for (uint32_t image = 0; image < work.count; ++image) {
            uint32_t rows = work.count == 1 ? count : 0;
            n += rows;
            for (; n < count && work.scratch.kept[n] >> kPositionBits == image; ++n) ++rows;
            // Rows beyond the last fill up its tile: the last image with any pays for them.
            if (n == count && rows) rows += (Isa::row_quantum - count % Isa::row_quantum) % Isa::row_quantum;
            work.batch->executed[work.number(image)] += rows * (row + cells);
            if (n == count) break;
        }
    }
};

}  // namespace lccl
