// Every step of a plan, for any instruction set: what lies above the micro-kernels.
//
// An instruction set is a struct in an unnamed namespace (isa/*.hpp), so that whatever is instantiated here for it
// stays in its own file. Each output cell is summed in one order, kernel row by kernel row and channel by channel,
// in its own accumulator: batch mates, tile sizes and thread counts do not change a bit of it.
#pragma once

#include "kernels.hpp"
#include "team.hpp"

#include <cmath>
#include <utility>

namespace lccl {

static inline uint32_t smaller(uint32_t a, uint32_t b) { return a < b ? a : b; }
static inline uint32_t ceil_div(uint32_t a, uint32_t b) { return (a + b - 1) / b; }
static inline uint32_t tasks_for(uint32_t units, const Team& team, uint32_t least) {
    if (team.size() == 1) return 1;
    return smaller(ceil_div(units, least), team.size() * 64);
}
static inline uint32_t cut(uint32_t units, uint32_t part, uint32_t parts) {
    return static_cast<uint32_t>(uint64_t{units} * part / parts);
}

template <class Isa>
struct Steps {
    using Element = typename Isa::Element;
    using Vector = typename Isa::Vector;
    using Block = typename Isa::Block;
    static constexpr uint32_t W = Isa::lanes;

    static Element* at(const Work& work, int buffer, uint32_t image) {
        return reinterpret_cast<Element*>(work.at(buffer, image));
    }

    // ---- borders and pixels

    static void clear_border(const Work& work, int buffer, uint32_t image) {
        const Map& map = work.maps[buffer];
        if (!map.pad) return;
        Element* base = at(work, buffer, image);
        const size_t pitch = map.pitch(), side = size_t{map.pad} * map.channels;
        const size_t last = (map.pad + map.height) * pitch;
        clear(base, map.pad * pitch + side);
        for (uint32_t y = 1; y < map.height; ++y) clear(base + (map.pad + y) * pitch - side, 2 * side);
        clear(base + last - side, map.pad * pitch + side);
    }

    static void clear(Element* target, size_t count) {
        size_t i = 0;
        for (; i + W <= count; i += W) Isa::store(target + i, Isa::zero());
        if (i < count) Isa::store_n(target + i, Isa::zero(), static_cast<int>(count - i));
    }

    static void normalise(const NormaliseStep& step, Work& work) {
        const Map& map = work.maps[step.raw];
        const uint32_t row = map.width * map.channels;
        const uint32_t parts = tasks_for(map.height * work.count, *work.team, 16);
        work.team->share(work.round, work.member, parts, [&](uint32_t part) {
            const uint32_t units = map.height * work.count;
            for (uint32_t unit = cut(units, part, parts); unit < cut(units, part + 1, parts); ++unit) {
                const uint32_t image = unit / map.height, y = unit % map.height;
                if (!y) clear_border(work, step.raw, image);
                Element* target =
                    at(work, step.raw, image) + (map.pad + y) * map.pitch() + size_t{map.pad} * map.channels;
                const size_t source = (size_t{work.first + image} * map.height + y) * row;
                if (work.pixels) {
                    look_up(static_cast<const uint8_t*>(work.images) + source, map, step, target);
                } else {
                    copy_floats(static_cast<const float*>(work.images) + source, row, target);
                }
            }
        });
    }

    static void look_up(const uint8_t* pixels, const Map& map, const NormaliseStep& step, Element* target) {
        const Element* table = static_cast<const Element*>(step.table);
        const uint32_t channels = map.channels;
        for (uint32_t x = 0; x < map.width; ++x) {
            for (uint32_t c = 0; c < channels; ++c) target[c] = table[c * 256 + pixels[c]];
            target += channels;
            pixels += channels;
        }
    }

    static void copy_floats(const float* source, uint32_t count, Element* target) {
        using Float = typename Isa::Float;
        for (uint32_t i = 0; i < count; i += W) {
            const int n = static_cast<int>(smaller(W, count - i));
            Isa::store_n(target + i, Float::load_n(source + i, n), n);
        }
    }

    // ---- gates

    // gates[image][map][position] = ReLU(affine(dot product)), a vector of positions at a time.
    static void find_gates(const ConvolveStep& step, Work& work) {
        const GateSpec& gate = step.gate;
        const uint32_t blocks = ceil_div(step.positions, W), units = blocks * work.count;
        const uint32_t parts = tasks_for(units, *work.team, 2);
        work.team->share(work.round, work.member, parts, [&](uint32_t part) {
            for (uint32_t unit = cut(units, part, parts); unit < cut(units, part + 1, parts); ++unit) {
                gate_block(step, work, unit / blocks, unit % blocks * W);
            }
        });
        if (work.member) return;
        // Positions beyond the last fill up the last vector, and elements beyond a run its last step: both are run.
        const int64_t run = int64_t{ceil_div(gate.run, Isa::dot_step)} * Isa::dot_step;
        for (uint32_t image = 0; image < work.count; ++image) {
            work.executed[work.first + image] += int64_t{blocks} * W * gate.groups * gate.runs * run;
        }
    }

    static void gate_block(const ConvolveStep& step, Work& work, uint32_t image, uint32_t first) {
        const GateSpec& gate = step.gate;
        const Element* base = at(work, gate.input, image);
        const size_t pitch = work.maps[gate.input].pitch();
        const Element* row[W];
        for (uint32_t i = 0; i < W; ++i) row[i] = base + gate.offset[smaller(first + i, step.positions - 1)];
        const bool neighbours = first + W <= step.positions && are_neighbours(gate, row);
        const size_t map_weights = size_t{gate.runs} * ceil_div(gate.run, Isa::dot_step) * Isa::dot_step;
        const size_t set = static_cast<size_t>(work.norm_set[work.first + image]) * gate.groups;
        for (uint32_t map = 0; map < gate.groups; ++map) {
            const Element* weights = static_cast<const Element*>(gate.weights) + map * map_weights;
            const Vector sums = neighbours ? sums_of_neighbours(gate, row, pitch, weights)
                                           : sums_of_windows(gate, row, pitch, weights);
            const Vector scale = Isa::broadcast(gate.scale[set + map]), shift = Isa::broadcast(gate.shift[set + map]);
            const Vector value = Isa::max(Isa::zero(), Isa::fma(sums, scale, shift));
            float* target = work.gates + (size_t{image} * gate.groups + map) * step.positions + first;
            Isa::Float::store_n(target, value, static_cast<int>(smaller(W, step.positions - first)));
        }
    }

    static Vector sums_of_windows(const GateSpec& gate, const Element* const* row, size_t pitch,
                                  const Element* weights) {
        const uint32_t whole = gate.run / Isa::dot_step * Isa::dot_step, rest = gate.run - whole;
        Vector sums[W];
#pragma GCC unroll 16
        for (uint32_t i = 0; i < W; ++i) sums[i] = Isa::zero();
        for (uint32_t r = 0; r < gate.runs; ++r) {
            for (uint32_t e = 0; e < whole; e += Isa::dot_step, weights += Isa::dot_step) {
                Isa::dots(sums, row, r * pitch + e, weights);
            }
            if (!rest) continue;
#pragma GCC unroll 16
            for (uint32_t i = 0; i < W; ++i) {
                sums[i] = Isa::dot_n(sums[i], row[i] + r * pitch + whole, weights, static_cast<int>(rest));
            }
            weights += Isa::dot_step;
        }
        return Isa::sums(sums);
    }

    // Windows of three pixels at neighbouring positions share most of them: each pixel is read once for three products.
    static constexpr uint32_t kSpan = 8;  // positions

    static bool are_neighbours(const GateSpec& gate, const Element* const* row) {
        if (gate.kernel != 3 || Isa::dot_step != W || gate.run % (3 * W)) return false;
        bool neighbours = true;  // from one position to the next it is a pixel or more
        for (uint32_t i = 0; i < W; i += kSpan) neighbours &= row[i + kSpan - 1] == row[i] + (kSpan - 1) * (gate.run / 3);
        return neighbours;
    }

    static Vector sums_of_neighbours(const GateSpec& gate, const Element* const* row, size_t pitch,
                                     const Element* weights) {
        const uint32_t channels = gate.run / 3;
        Vector sums[W];
#pragma GCC unroll 16
        for (uint32_t i = 0; i < W; ++i) sums[i] = Isa::zero();
        for (uint32_t r = 0; r < 3; ++r, weights += 2 * channels) {
            for (uint32_t c = 0; c < channels; c += W, weights += W) {
                const Vector left = Isa::load(weights), middle = Isa::load(weights + channels);
                const Vector right = Isa::load(weights + 2 * channels);
#pragma GCC unroll 2
                for (uint32_t span = 0; span < W; span += kSpan) {
                    const Element* pixel = row[span] + r * pitch + c;
#pragma GCC unroll 16
                    for (uint32_t i = 0; i < kSpan + 2; ++i, pixel += channels) {
                        const Vector value = Isa::load(pixel);
                        if (i < kSpan) sums[span + i] = Isa::fma(value, left, sums[span + i]);
                        if (i > 0 && i <= kSpan) sums[span + i - 1] = Isa::fma(value, middle, sums[span + i - 1]);
                        if (i > 1) sums[span + i - 2] = Isa::fma(value, right, sums[span + i - 2]);
                    }
                }
            }
        }
        return Isa::sums(sums);
    }

    // Lists the rows that a map keeps and those it leaves out, over all images; counts and masks on the way.
    static uint32_t list_rows(const ConvolveStep& step, Work& work, uint32_t map, uint32_t& skipped) {
        const GateSpec& gate = step.gate;
        const uint32_t share = step.out_channels / gate.groups;
        uint32_t kept = 0;
        skipped = 0;
        for (uint32_t image = 0; image < work.count; ++image) {
            const size_t global = work.first + image;
            const float* values = work.gates + (size_t{image} * gate.groups + map) * step.positions;
            const size_t place = (global * gate.groups + map) * step.positions;
            const uint32_t before = kept, code = image << kPositionBits;
            if (work.forced) {
                const uint8_t* forced = work.forced[gate.layer] + place;
                for (uint32_t p = 0; p < step.positions; ++p) {
                    work.scratch.kept[kept] = work.scratch.skipped[skipped] = code | p;
                    kept += forced[p] != 0;
                    skipped += forced[p] == 0;
                }
            } else {
                const float threshold = work.thresholds[global * work.layers + gate.layer];
                Isa::Float::list(values, step.positions, threshold, code, work.scratch.kept, kept,
                                 work.scratch.skipped, skipped);
            }
            if (work.member) continue;
            work.kept[global * work.layers + gate.layer] += int64_t{kept - before} * share;
            if (work.masks) {
                uint8_t* mask = work.masks[gate.layer] + place;
                for (uint32_t p = 0; p < step.positions; ++p) mask[p] = 0;
                for (uint32_t n = before; n < kept; ++n) mask[work.scratch.kept[n] & kPositionMask] = 1;
            }
        }
        return kept;
    }

    static uint32_t list_all(const ConvolveStep& step, Work& work) {
        uint32_t n = 0;
        for (uint32_t image = 0; image < work.count; ++image) {
            for (uint32_t p = 0; p < step.positions; ++p) work.scratch.kept[n++] = image << kPositionBits | p;
        }
        return n;
    }

    // ---- convolutions

    static void convolve(const ConvolveStep& step, Work& work) {
        const bool lists = step.gate.layer != kNone && !step.gate.per_cell;
        const bool zeroed = lists && fills_with_zeros(step);
        clear_outputs(step, work, zeroed);
        if (!lists) {
            rows(step, work, 0, list_all(step, work));
            return;
        }
        find_gates(step, work);  // waits for everyone, so that no row is written before its map is cleared
        for (uint32_t map = 0; map < step.groups; ++map) {
            uint32_t skipped;
            const uint32_t kept = list_rows(step, work, map, skipped);
            if (!step.in_place || step.raw != kNone) fill(step, work, map, skipped, zeroed);
            rows(step, work, map, kept);
        }
    }

    // Skipped rows of a raw output without a residual hold zeros. Where rows are short, one sweep over the whole map is
    // cheaper than many of them.
    static bool fills_with_zeros(const ConvolveStep& step) {
        return step.raw != kNone && step.residual == kNone && step.out_channels * sizeof(Element) <= 128;
    }

    // Borders, or a whole map, a share for each member. An output in its residual's place has its border already.
    static void clear_outputs(const ConvolveStep& step, const Work& work, bool whole_raw) {
        for (uint32_t image = 0; image < work.count; ++image) {
            if (step.raw != kNone && whole_raw) {
                const Map& map = work.maps[step.raw];
                const uint32_t lines = map.height + 2 * map.pad, members = work.team->size();
                const uint32_t first = cut(lines, work.member, members), last = cut(lines, work.member + 1, members);
                clear(at(work, step.raw, image) + first * size_t{map.pitch()}, (last - first) * size_t{map.pitch()});
            } else if (step.raw != kNone && !step.in_place && !work.member) {
                clear_border(work, step.raw, image);
            }
            const bool there_already = step.in_place && step.raw == kNone;
            if (step.activated != kNone && !there_already && !work.member) clear_border(work, step.activated, image);
        }
    }

    // Rows of one group of output channels: chunk by chunk, a panel of weights for all tiles of the chunk.
    static void rows(const ConvolveStep& step, Work& work, uint32_t group, uint32_t count) {
        const uint32_t quanta = ceil_div(count, Isa::row_quantum);
        const uint32_t tiles = ceil_div(quanta, Isa::rows / Isa::row_quantum);
        const uint32_t chunk = step.heavy ? Isa::chunk : 1, chunks = ceil_div(tiles, chunk);
        const uint32_t size = tiles ? quanta / tiles : 0, larger = tiles ? quanta % tiles : 0;
        const uint32_t vectors = ceil_div(step.out_channels / step.groups, W), panels = ceil_div(vectors, Isa::panel);
        const bool cells = step.gate.layer != kNone && step.gate.per_cell;
        const uint32_t slices = step.heavy && work.team->size() > 1 && !cells ? panels : 1;
        const uint32_t parts = step.heavy ? chunks : tasks_for(chunks, *work.team, 2);
        work.team->share(work.round, work.member, count ? parts * slices : 0, [&](uint32_t task) {
            const uint32_t part = task % parts, slice = task / parts;  // a panel's weights stay with one member
            for (uint32_t c = cut(chunks, part, parts); c < cut(chunks, part + 1, parts); ++c) {
                const Span span{count, size, larger, cut(tiles, c, chunks), cut(tiles, c + 1, chunks)};
                one_chunk(step, work, group, span, cut(panels, slice, slices), cut(panels, slice + 1, slices));
            }
        });
        if (work.member) return;
        count_rows(step, work, count, vectors);
    }

    // Tiles [first, last) of `count` rows: the first `larger` tiles of all have size + 1 quanta, the others size.
    struct Span {
        uint32_t count, size, larger, first, last;
        uint32_t begin(uint32_t tile) const { return (tile * size + smaller(tile, larger)) * Isa::row_quantum; }
        uint32_t end(uint32_t tile) const { return smaller(count, begin(tile + 1)); }
    };

    // Where the rows of a tile go and what they are combined with.
    struct Rows {
        Element *raw[Isa::rows], *activated[Isa::rows];
        const Element* residual[Isa::rows];  // unless it is where the output goes
        float gate[Isa::rows];
        uint32_t set[Isa::rows];  // first channel of the row's normalisation set; the first alone if all are of one image
        uint32_t count;
        bool one_set;
    };

    static void one_chunk(const ConvolveStep& step, Work& work, uint32_t group, const Span& span, uint32_t first_panel,
                          uint32_t last_panel) {
        const uint32_t share = step.out_channels / step.groups, vectors = ceil_div(share, W);
        const size_t pitch = work.maps[step.input].pitch();
        const bool cells = step.gate.layer != kNone && step.gate.per_cell;
        const Element* weights = static_cast<const Element*>(step.weights) + group * step.group_weights;
        Block block[Isa::chunk];
        Rows rows[Isa::chunk];
        for (uint32_t tile = span.first; tile < span.last; ++tile) {
            const uint32_t begin = span.begin(tile), count = span.end(tile) - begin, place = tile - span.first;
            const Element* input[Isa::rows];
            find_rows(step, work, group, begin, count, input, rows[place]);
            Isa::prepare(block[place], input, count, step.runs, step.run, pitch, block_at(work, place));
            fetch_ahead(step, work, begin + count, smaller(span.count, begin + 2 * count));
            if (cells) gate_cells(step, work, place, begin, count);
        }
        alignas(64) float sums[Isa::rows * Isa::panel * W];
        const Finish finish = finish_for(step, work);
        for (uint32_t panel = first_panel; panel < last_panel; ++panel) {
            const uint32_t vector = panel * Isa::panel, taken = smaller(Isa::panel, vectors - vector);
            const Element* packed = weights + vector * step.vector_weights;
            for (uint32_t place = 0; place < span.last - span.first; ++place) {
                Isa::multiply(block[place], step.runs, step.run, pitch, packed, taken, sums);
                const Part part{group * share + vector * W, smaller(taken * W, share - vector * W), taken, place};
                finish_rows(step, work, finish, rows[place], part, sums);
            }
        }
    }

    // The inputs that the next rows read and these do not: their last pixel in the last kernel row. Maps that fit the
    // first-level cache are there already.
    static void fetch_ahead(const ConvolveStep& step, const Work& work, uint32_t first, uint32_t last) {
        const Map& map = work.maps[step.input];
        const uint32_t bytes = step.in_channels * sizeof(Element);
        if (first >= last || size_t{map.height} * map.width * bytes < (size_t{24} << 10)) return;
        const size_t corner = (step.runs - 1) * size_t{map.pitch()} + step.run - step.in_channels;
        const uint32_t image = work.scratch.kept[first] >> kPositionBits;
        const Element* base = at(work, step.input, image) + corner;
        for (uint32_t n = first; n < last; ++n) {
            const uint32_t code = work.scratch.kept[n];
            if (code >> kPositionBits != image) return;
            const char* pixel = reinterpret_cast<const char*>(base + step.offset[code & kPositionMask]);
            for (uint32_t line = 0; line < bytes; line += 64) __builtin_prefetch(pixel + line);
        }
    }

    static void find_rows(const ConvolveStep& step, const Work& work, uint32_t group, uint32_t begin, uint32_t count,
                          const Element** input, Rows& rows) {
        rows.count = count;
        rows.one_set = true;
        const uint32_t* codes = work.scratch.kept + begin;
        for (uint32_t n = 0, last; n < count; n = last) {  // the rows of one image after those of another
            const uint32_t image = codes[n] >> kPositionBits;
            last = last_of_image(codes, n, count);
            place_rows(at(work, step.input, image), step.offset, codes, n, last, input);
            if (step.raw != kNone) {
                place_rows(at(work, step.raw, image), step.raw_offset, codes, n, last, rows.raw);
            }
            if (step.activated != kNone) {
                place_rows(at(work, step.activated, image), step.activated_offset, codes, n, last, rows.activated);
            }
            if (step.residual != kNone && !step.in_place) {
                place_rows(at(work, step.residual, image), step.residual_offset, codes, n, last, rows.residual);
            }
            if (step.gate.layer != kNone && !step.gate.per_cell) {
                const float* gates = work.gates + (size_t{image} * step.gate.groups + group) * step.positions;
                for (uint32_t m = n; m < last; ++m) rows.gate[m] = gates[codes[m] & kPositionMask];
            }
            const uint32_t set = static_cast<uint32_t>(work.norm_set[work.first + image]) * step.out_channels;
            rows.one_set &= n == 0 || rows.set[0] == set;
            for (uint32_t m = n; m < (last - n == count ? 1 : last); ++m) rows.set[m] = set;
        }
    }

    template <class Base, class Pointer>
    static void place_rows(Base base, const uint32_t* offset, const uint32_t* codes, uint32_t first, uint32_t last,
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

    static char* block_at(const Work& work, uint32_t place) {
        return work.scratch.blocks + place * work.scratch.block_bytes;
    }

    // scale, shift, ReLU, gate, residual: from a tile of sums to the step's outputs.

    struct Part {  // of the output channels
        uint32_t channel, channels, vectors, place;
    };
    using Finish = void (*)(const ConvolveStep&, const Work&, const Rows&, uint32_t, uint32_t, const Part&,
                            const float*);

    static void finish_rows(const ConvolveStep& step, const Work& work, Finish finish, const Rows& rows,
                            const Part& part, const float* sums) {
        if (rows.one_set) return finish(step, work, rows, 0, rows.count, part, sums);
        for (uint32_t n = 0; n < rows.count; ++n) finish(step, work, rows, n, n + 1, part, sums);
    }

    static Finish finish_for(const ConvolveStep& step, const Work& work) {
        const int gate = step.gate.layer == kNone ? 0 : step.gate.per_cell ? 2 : 1;
        const int outputs = step.activated == kNone ? 0 : step.raw == kNone ? 1 : 2;
        const bool whole = step.out_channels / step.groups % W == 0 &&
                           (step.residual == kNone || work.maps[step.residual].channels == step.out_channels);
        return finish_table(std::make_integer_sequence<int, 36>{},
                            ((whole * 3 + gate) * 2 + (step.residual != kNone)) * 3 + outputs);
    }

    template <int... N>
    static Finish finish_table(std::integer_sequence<int, N...>, int number) {
        static constexpr Finish table[] = {&finish<N / 18 == 1, N / 6 % 3, N / 3 % 2 == 1, N % 3 != 1, N % 3 != 0>...};
        return table[number];
    }

    // Whole: nothing but whole vectors. Gate: 0 none, 1 a value per row, 2 a value per cell. All rows have one set.
    template <bool Whole, int Gate, bool Residual, bool Raw, bool Activated>
    static void finish(const ConvolveStep& step, const Work& work, const Rows& rows, uint32_t first, uint32_t last,
                       const Part& part, const float* sums) {
        using Float = typename Isa::Float;
        const uint32_t set = rows.set[first];
        const Vector zero = Isa::zero(), least = step.relu ? zero : Isa::broadcast(-INFINITY);
        const uint32_t residual_channels = Residual ? work.maps[step.residual].channels : 0;
        const Element* const* const residual = !step.in_place ? rows.residual : Raw ? rows.raw : rows.activated;
        for (uint32_t v = 0; v < part.vectors; ++v) {
            const uint32_t channel = part.channel + v * W;
            const int valid = Whole ? W : static_cast<int>(smaller(W, part.channels - v * W));
            const int added =
                Whole ? W : residual_channels > channel ? static_cast<int>(smaller(valid, residual_channels - channel)) : 0;
            const Vector scale = affine(step.scale, set + channel, valid, 1.0f);
            const Vector shift = affine(step.shift, set + channel, valid, 0.0f);
            const Vector next_scale = Activated ? affine(step.activated_scale, set + channel, valid, 1.0f) : zero;
            const Vector next_shift = Activated ? affine(step.activated_shift, set + channel, valid, 0.0f) : zero;
            for (uint32_t n = first; n < last; ++n) {
                Vector value = Isa::fma(Float::load(sums + (n * part.vectors + v) * W), scale, shift);
                value = Isa::max(least, value);
                if constexpr (Gate == 1) value = Isa::mul(value, Isa::broadcast(rows.gate[n]));
                if constexpr (Gate == 2) {
                    const Vector gate = spread(step, work, part.place * Isa::rows + n, channel, valid);
                    value = Isa::where_not_negative(gate, Isa::mul(value, gate));
                }
                if constexpr (Residual) value = Isa::add(value, Isa::load_n(residual[n] + channel, added));
                if constexpr (Raw) Isa::store_n(rows.raw[n] + channel, value, valid);
                if constexpr (Activated) {
                    value = Isa::max(zero, Isa::fma(value, next_scale, next_shift));
                    Isa::store_n(rows.activated[n] + channel, value, valid);
                }
            }
        }
    }

    static Vector affine(const float* values, size_t channel, int valid, float absent) {
        return values ? Isa::Float::load_n(values + channel, valid) : Isa::broadcast(absent);
    }

    static Element* raw_row(const ConvolveStep& step, const Work& work, uint32_t code) {
        return at(work, step.raw, code >> kPositionBits) + step.raw_offset[code & kPositionMask];
    }

    // What a skipped row holds: the residual, or what nothing becomes.
    static void fill(const ConvolveStep& step, const Work& work, uint32_t group, uint32_t skipped, bool zeroed) {
        using Float = typename Isa::Float;
        const bool write_raw = step.raw != kNone && !step.in_place && !zeroed;
        const bool write_activated = step.activated != kNone;
        if (!write_raw && !write_activated) return;
        const uint32_t share = step.out_channels / step.groups, channel = group * share;
        const uint32_t residual_channels = step.residual == kNone ? 0 : work.maps[step.residual].channels;
        const uint32_t members = work.team->size();
        const uint32_t last = cut(skipped, work.member + 1, members);
        if (write_raw && !write_activated && step.residual == kNone && share % W == 0) {
            for (uint32_t n = cut(skipped, work.member, members); n < last; ++n) {
                constexpr uint32_t kAhead = 8;  // rows
                if (n + kAhead < last) {
                    const char* next = reinterpret_cast<const char*>(raw_row(step, work, work.scratch.skipped[n + kAhead]) + channel);
                    for (uint32_t line = 0; line < share * sizeof(Element); line += 64) __builtin_prefetch(next + line, 1);
                }
                clear(raw_row(step, work, work.scratch.skipped[n]) + channel, share);
            }
            return;
        }
        for (uint32_t n = cut(skipped, work.member, members); n < last; ++n) {
            const uint32_t code = work.scratch.skipped[n], image = code >> kPositionBits;
            const uint32_t position = code & kPositionMask;
            const size_t set = static_cast<size_t>(work.norm_set[work.first + image]) * step.out_channels;
            for (uint32_t c = channel; c < channel + share; c += W) {
                const int valid = static_cast<int>(smaller(W, channel + share - c));
                Vector value = Isa::zero();
                if (residual_channels > c) {
                    value = Isa::load_n(at(work, step.residual, image) + step.residual_offset[position] + c,
                                        static_cast<int>(smaller(valid, residual_channels - c)));
                }
                if (write_raw) {
                    Isa::store_n(at(work, step.raw, image) + step.raw_offset[position] + c, value, valid);
                }
                if (write_activated) {
                    if (step.activated_scale) {
                        value = Isa::fma(value, Float::load_n(step.activated_scale + set + c, valid),
                                         Float::load_n(step.activated_shift + set + c, valid));
                    }
                    value = Isa::max(Isa::zero(), value);
                    Isa::store_n(at(work, step.activated, image) + step.activated_offset[position] + c, value, valid);
                }
            }
        }
    }

    static void count_rows(const ConvolveStep& step, const Work& work, uint32_t count, uint32_t vectors) {
        const int64_t row = int64_t{vectors} * W * step.runs * ceil_div(step.run, Isa::k_step) * Isa::k_step;
        int64_t cells = 0;
        if (step.gate.layer != kNone && step.gate.per_cell) {
            cells = int64_t{ceil_div(step.gate.groups, W)} * W * step.gate.runs *
                    ceil_div(step.gate.run, Isa::k_step) * Isa::k_step;
        }
        uint32_t n = 0;
        for (uint32_t image = 0; image < work.count; ++image) {
            uint32_t rows = work.count == 1 ? count : 0;
            n += rows;
            for (; n < count && work.scratch.kept[n] >> kPositionBits == image; ++n) ++rows;
            // Rows beyond the last fill up its tile: the last image with any pays for them.
            if (n == count && rows) rows += (Isa::row_quantum - count % Isa::row_quantum) % Isa::row_quantum;
            work.executed[work.first + image] += rows * (row + cells);
            if (n == count) break;
        }
    }

    // ---- gates of single cells: a map per channel or few, computed for every position beside the convolution

    static uint32_t cell_pitch(const GateSpec& gate) { return ceil_div(gate.groups, W) * W; }

    // Gate values of a tile of rows; −1 stands for a cell that is not kept.
    static void gate_cells(const ConvolveStep& step, Work& work, uint32_t place, uint32_t begin, uint32_t count) {
        using Float = typename Isa::Float;
        const GateSpec& gate = step.gate;
        Block block;
        prepare_gate(block, step, work, begin, count);
        const uint32_t vectors = ceil_div(gate.groups, W), pitch = cell_pitch(gate);
        alignas(64) float sums[Isa::rows * Isa::panel * W];
        for (uint32_t vector = 0; vector < vectors; vector += Isa::panel) {
            const uint32_t taken = smaller(Isa::panel, vectors - vector);
            const size_t vector_weights = size_t{W} * packed_k(gate.runs, gate.run);
            Isa::multiply(block, gate.runs, gate.run, work.maps[gate.input].pitch(),
                          static_cast<const Element*>(gate.weights) + vector * vector_weights, taken, sums);
            for (uint32_t n = 0; n < count; ++n) {
                const uint32_t code = work.scratch.kept[begin + n], image = code >> kPositionBits;
                const size_t global = work.first + image;
                const size_t set = static_cast<size_t>(work.norm_set[global]) * gate.groups;
                const Vector threshold = Isa::broadcast(work.thresholds[global * work.layers + gate.layer]);
                for (uint32_t v = 0; v < taken; ++v) {
                    const uint32_t map = (vector + v) * W;
                    const int valid = static_cast<int>(smaller(W, gate.groups - map));
                    Vector value = Isa::max(Isa::zero(), Isa::fma(Float::load(sums + (n * taken + v) * W),
                                                                  Float::load_n(gate.scale + set + map, valid),
                                                                  Float::load_n(gate.shift + set + map, valid)));
                    float* target = work.scratch.cells + (place * Isa::rows + n) * size_t{pitch} + map;
                    if (work.forced) {
                        Float::store(target, value);
                        force(step, work, target, static_cast<uint32_t>(valid), map, code);
                    } else {
                        Float::store(target, Isa::where_greater(value, threshold, value));
                    }
                }
            }
        }
        tally(step, work, place, begin, count);
    }

    static void prepare_gate(Block& block, const ConvolveStep& step, const Work& work, uint32_t begin, uint32_t count) {
        const Element* row[Isa::rows];
        const uint32_t* codes = work.scratch.kept + begin;
        for (uint32_t n = 0; n < count; ++n) {
            row[n] = at(work, step.gate.input, codes[n] >> kPositionBits) + step.gate.offset[codes[n] & kPositionMask];
        }
        Isa::prepare(block, row, count, step.gate.runs, step.gate.run, work.maps[step.gate.input].pitch(),
                     block_at(work, Isa::chunk));
    }

    static void force(const ConvolveStep& step, const Work& work, float* values, uint32_t valid, uint32_t map,
                      uint32_t code) {
        const size_t image = work.first + (code >> kPositionBits);
        const uint8_t* forced = work.forced[step.gate.layer] + (image * step.gate.groups + map) * step.positions;
        for (uint32_t v = 0; v < valid; ++v) {
            if (!forced[size_t{v} * step.positions + (code & kPositionMask)]) values[v] = -1.0f;
        }
    }

    // Kept counts and masks of a tile of rows. Tiles of one image may be with several members.
    static void tally(const ConvolveStep& step, Work& work, uint32_t place, uint32_t begin, uint32_t count) {
        const GateSpec& gate = step.gate;
        const uint32_t share = step.out_channels / gate.groups, pitch = cell_pitch(gate);
        for (uint32_t n = 0; n < count; ++n) {
            const uint32_t code = work.scratch.kept[begin + n];
            const size_t image = work.first + (code >> kPositionBits);
            const float* values = work.scratch.cells + (place * Isa::rows + n) * size_t{pitch};
            int64_t kept = 0;
            for (uint32_t map = 0; map < gate.groups; ++map) kept += !(values[map] < 0.0f);
            int64_t* total = work.kept + image * work.layers + gate.layer;
            __atomic_fetch_add(total, kept * share, __ATOMIC_RELAXED);
            if (!work.masks) continue;
            uint8_t* mask = work.masks[gate.layer] + image * gate.groups * step.positions + (code & kPositionMask);
            for (uint32_t map = 0; map < gate.groups; ++map) {
                mask[size_t{map} * step.positions] = !(values[map] < 0.0f);
            }
        }
    }

    // The gate values of a vector of channels: each map's value for all channels it rules.
    static Vector spread(const ConvolveStep& step, const Work& work, uint32_t row, uint32_t channel, int valid) {
        const uint32_t share = step.out_channels / step.gate.groups;
        const float* values = work.scratch.cells + size_t{row} * cell_pitch(step.gate);
        if (share == 1) return Isa::Float::load_n(values + channel, valid);
        alignas(64) float cells[W] = {};
        for (int c = 0; c < valid; ++c) cells[c] = values[(channel + c) / share];
        return Isa::Float::load(cells);
    }

    static size_t packed_k(uint32_t runs, uint32_t run) {
        return size_t{ceil_div(runs * ceil_div(run, Isa::k_step), Isa::k_block)} * Isa::k_block * Isa::k_step;
    }

    // ---- pools and classifier

    // Band by band, so that what lies between stays in the cache: the map holds `ring` rows, the last ones computed.
    static void convolve_and_pool(const ConvolveStep& step, const MaxPoolStep& pool, uint32_t band, uint32_t ring,
                                  Work& work) {
        const Map &in = work.maps[pool.input], &out = work.maps[pool.raw];
        const uint32_t half = pool.kernel / 2;
        for (uint32_t computed = 0, pooled = 0; computed < in.height;) {
            const uint32_t until = smaller(computed + band, in.height);
            uint32_t count = 0;
            for (uint32_t p = computed * in.width; p < until * in.width; ++p) work.scratch.kept[count++] = p;
            rows(step, work, 0, count);
            computed = until;
            const uint32_t whole = computed > half ? (computed - 1 - half) / pool.stride + 1 : 0;  // windows
            const uint32_t ready = computed == in.height ? out.height : smaller(whole, out.height);
            pool_rows(pool, work, pooled, ready, ring);
            pooled = ready;
        }
    }

    static void max_pool(const MaxPoolStep& step, Work& work) {
        const Map &in = work.maps[step.input], &out = work.maps[step.raw];
        pool_rows(step, work, 0, out.height, in.height);
    }

    // Rows [first, last) of each image's output, from an input whose row y lies at y modulo `ring`.
    static void pool_rows(const MaxPoolStep& step, Work& work, uint32_t first, uint32_t last, uint32_t ring) {
        const Map &in = work.maps[step.input], &out = work.maps[step.raw];
        const uint32_t height = last - first, units = height * work.count, parts = tasks_for(units, *work.team, 2);
        work.team->share(work.round, work.member, parts, [&](uint32_t part) {
            for (uint32_t unit = cut(units, part, parts); unit < cut(units, part + 1, parts); ++unit) {
                const uint32_t image = unit / height, y = first + unit % height;
                if (!y) clear_border(work, step.raw, image);
                for (uint32_t x = 0; x < out.width; ++x) pool_window(step, work, in, out, image, y, x, ring);
            }
        });
    }

    static void pool_window(const MaxPoolStep& step, const Work& work, const Map& in, const Map& out, uint32_t image,
                            uint32_t y, uint32_t x, uint32_t ring) {
        const int half = static_cast<int>(step.kernel / 2);
        const int top = static_cast<int>(y * step.stride) - half, left = static_cast<int>(x * step.stride) - half;
        const int bottom = top + static_cast<int>(step.kernel), right = left + static_cast<int>(step.kernel);
        const uint32_t y0 = top < 0 ? 0 : top, x0 = left < 0 ? 0 : left;
        const uint32_t y1 = smaller(static_cast<uint32_t>(bottom), in.height);
        const uint32_t x1 = smaller(static_cast<uint32_t>(right), in.width);
        const Element* source = at(work, step.input, image) + (in.pad * (in.pitch() + in.channels));
        Element* target = at(work, step.raw, image) + (out.pad + y) * out.pitch() + (out.pad + x) * out.channels;
        for (uint32_t c = 0; c < in.channels; c += W) {
            const int valid = static_cast<int>(smaller(W, in.channels - c));
            Vector largest = Isa::load_n(source + y0 % ring * in.pitch() + x0 * in.channels + c, valid);
            for (uint32_t j = y0; j < y1; ++j) {
                const Element* row = source + j % ring * in.pitch() + c;
                for (uint32_t i = x0; i < x1; ++i) {
                    largest = Isa::max(largest, Isa::load_n(row + i * in.channels, valid));
                }
            }
            Isa::store_n(target + c, largest, valid);
        }
    }

    static void average_pool(const AveragePoolStep& step, Work& work) {
        const Map& in = work.maps[step.input];
        const uint32_t vectors = ceil_div(in.channels, W), units = vectors * work.count;
        const Vector share = Isa::broadcast(1.0f / static_cast<float>(in.height * in.width));
        const uint32_t parts = tasks_for(units, *work.team, 4);
        work.team->share(work.round, work.member, parts, [&](uint32_t part) {
            for (uint32_t unit = cut(units, part, parts); unit < cut(units, part + 1, parts); ++unit) {
                const uint32_t image = unit / vectors, c = unit % vectors * W;
                const int valid = static_cast<int>(smaller(W, in.channels - c));
                const Element* source = at(work, step.input, image) + in.pad * (in.pitch() + in.channels) + c;
                Vector sum = Isa::zero();
                for (uint32_t y = 0; y < in.height; ++y) {
                    for (uint32_t x = 0; x < in.width; ++x) {
                        sum = Isa::add(sum, Isa::load_n(source + y * in.pitch() + x * in.channels, valid));
                    }
                }
                float* target = reinterpret_cast<float*>(work.at(step.raw, image)) + c;
                Isa::Float::store_n(target, Isa::mul(sum, share), valid);
            }
        });
    }

    static void classify(const ClassifyStep& step, Work& work) {
        using Float = typename Isa::Float;
        const uint32_t vectors = ceil_div(step.classes, W), panels = ceil_div(vectors, Float::panel);
        work.team->share(work.round, work.member, panels, [&](uint32_t panel) {
            const uint32_t vector = panel * Float::panel, taken = smaller(Float::panel, vectors - vector);
            for (uint32_t first = 0; first < work.count; first += Float::rows) {
                const uint32_t count = smaller(Float::rows, work.count - first);
                typename Float::Block block;
                const float* row[Float::rows];
                for (uint32_t n = 0; n < count; ++n) {
                    row[n] = reinterpret_cast<const float*>(work.at(step.input, first + n));
                }
                Float::prepare(block, row, count, 1, step.channels, 0, nullptr);
                alignas(64) float sums[Float::rows * Float::panel * W];
                Float::multiply(block, 1, step.channels, 0, step.weights + vector * step.vector_weights, taken, sums);
                for (uint32_t n = 0; n < count; ++n) {
                    float* target = work.logits + size_t{work.first + first + n} * step.classes;
                    for (uint32_t c = vector * W; c < smaller(step.classes, (vector + taken) * W); ++c) {
                        target[c] = sums[n * taken * W + c - vector * W] + step.bias[c];
                    }
                }
            }
        });
        if (work.member) return;
        const int64_t macs = int64_t{vectors} * W * step.channels;
        for (uint32_t image = 0; image < work.count; ++image) work.executed[work.first + image] += macs;
    }
};

// multiply() for every number of rows and vectors, from an instruction set's tile<rows, vectors>.
template <class Isa, int... N>
static inline void multiply_any(std::integer_sequence<int, N...>, const typename Isa::Block& block, uint32_t runs,
                                uint32_t run, size_t pitch, const typename Isa::Element* weights, uint32_t vectors,
                                float* sums) {
    using Tile = void (*)(const typename Isa::Element* const*, uint32_t, uint32_t, size_t,
                          const typename Isa::Element*, float*);
    static constexpr Tile tiles[] = {&Isa::template tile<N / Isa::panel + 1, N % Isa::panel + 1>...};
    tiles[(block.count - 1) * Isa::panel + vectors - 1](block.row, runs, run, pitch, weights, sums);
}

template <class Isa>
static constexpr Kernels kernels_of(const char* name, bool bf16) {
    using S = Steps<Isa>;
    return Kernels{name,          bf16,          Isa::lanes,        Isa::panel,        Isa::Float::panel,
                   Isa::rows,     Isa::k_step,   Isa::k_block,      Isa::dot_step,     Isa::chunk,
                   Isa::packed_bytes, &S::normalise, &S::convolve, &S::convolve_and_pool, &S::max_pool, &S::average_pool, &S::classify};
}

}  // namespace lccl
