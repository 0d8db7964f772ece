// The inner loop of every convolution: a tile of rows × vectors of output channels, summed in registers.
//
// `Register` is one of an instruction set's vector registers: how it loads weights, multiplies and stores.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lccl {
namespace {

// sums[row][vector] = Σ over `runs` kernel rows of `run` elements each, `pitch` elements apart.
template <class Register, int Rows, int Vectors, class Element, class Weight, class Sum>
static inline void sum_tile(const Element* const* row, uint32_t runs, uint32_t run, size_t pitch, const Weight* weights,
                            Sum* sums) {
    using Weights = typename Register::Weights;
    // Ten pointers and the loop's own numbers fill the general registers. Compilers keep further ones in vector
    // registers, and fetching them back takes time from the sums: they are left in memory.
    constexpr int kNear = Rows < 10 ? Rows : 10;
    constexpr uint32_t step = Register::step;
    typename Register::Sum total[Rows][Vectors];
#pragma GCC unroll 16
    for (int n = 0; n < Rows; ++n) {
        for (int v = 0; v < Vectors; ++v) total[n][v] = Register::zero();
    }
    const size_t whole = run / step * step;
    for (uint32_t r = 0; r < runs; ++r) {
        // Read anew for every kernel row: held over from before they would crowd the registers.
        __asm__ volatile("" ::: "memory");
        const Element* near[kNear];
        const Element* volatile far[Rows];
#pragma GCC unroll 16
        for (int n = 0; n < kNear; ++n) near[n] = row[n] + r * pitch;
#pragma GCC unroll 16
        for (int n = kNear; n < Rows; ++n) far[n] = row[n] + r * pitch;
        for (size_t e = 0; e < whole; e += step, weights += Vectors * Register::lanes * step) {
            Weights w[Vectors];
            for (int v = 0; v < Vectors; ++v) w[v] = Register::weights(weights + v * Register::lanes * step);
#pragma GCC unroll 16
            for (int n = 0; n < kNear; ++n) Register::template add<Vectors>(total[n], near[n] + e, w);
#pragma GCC unroll 16
            for (int n = kNear; n < Rows; ++n) Register::template add<Vectors>(total[n], far[n] + e, w);
        }
        if (whole < run) {  // the last element alone: its neighbour belongs to no tap
            Weights w[Vectors];
            for (int v = 0; v < Vectors; ++v) w[v] = Register::weights(weights + v * Register::lanes * step);
#pragma GCC unroll 16
            for (int n = 0; n < Rows; ++n) {
                Register::template add_last<Vectors>(total[n], row[n] + r * pitch + whole, w);
            }
            weights += Vectors * Register::lanes * step;
        }
    }
#pragma GCC unroll 16
    for (int n = 0; n < Rows; ++n) {
        for (int v = 0; v < Vectors; ++v) {
            Register::store(sums + (n * Vectors + v) * Register::lanes, total[n][v]);
        }
    }
}

}  // namespace
}  // namespace lccl
