// From rows to a tile of sums: through an indirection buffer, or packed in the order that the instruction set reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "../kernels.hpp"

namespace lccl {

template <class Isa>
using WeightOf = std::conditional_t<Isa::quantised, int8_t, typename Isa::Element>;
template <class Isa>
using SumOf = std::conditional_t<Isa::quantised, int32_t, float>;

template <class Isa>
struct Indirect {
    using Element = typename Isa::Element;
    using Weight = WeightOf<Isa>;
    using Sum = SumOf<Isa>;
    using Tile = void (*)(const Element* const*, uint32_t, uint32_t, size_t, const Weight*, Sum*);

    using State = typename Isa::State;

    struct Block {
        const Element* row[Isa::rows];  // the indirection buffer: where each row's window begins
        uint32_t count;
    };

    static void prepare(Block& block, const Element* const* row, uint32_t count, uint32_t, uint32_t, size_t, char*) {
        for (uint32_t n = 0; n < count; ++n) block.row[n] = row[n];
        block.count = count;
    }

    // sums[row][vector] of all rows, over `runs` kernel rows of `run` elements each, `pitch` elements apart.
    static void multiply(State&, const Block& block, uint32_t runs, uint32_t run, size_t pitch, const Weight* weights,
                         uint32_t vectors, Sum* sums) {
        const Tile tile = tile_of(std::make_integer_sequence<int, Isa::rows * Isa::panel>{}, block.count, vectors);
        tile(block.row, runs, run, pitch, weights, sums);
    }

    template <int... N>
    static Tile tile_of(std::integer_sequence<int, N...>, uint32_t rows, uint32_t vectors) {
        static constexpr Tile tiles[] = {&Isa::template tile<N / Isa::panel + 1, N % Isa::panel + 1>...};
        return tiles[(rows - 1) * Isa::panel + vectors - 1];
    }
};

// An instruction set that packs has Block, prepare and multiply of its own; Common has its State.
template <class Isa>
using Tiles = std::conditional_t<Isa::packed_bytes != 0, Isa, Indirect<Isa>>;

// Where a worker packs the rows of the tile at `slot` of a chunk.
static inline char* packed_at(const Work& work, uint32_t slot) {
    return work.scratch.blocks + slot * work.scratch.block_bytes;
}

}  // namespace lccl
