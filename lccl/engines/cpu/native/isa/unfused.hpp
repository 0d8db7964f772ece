// Linear layers of int8: products and sums of float32 rounded one by one, so that all instruction sets agree.
#pragma once

#include <cstddef>
#include <cstdint>

#include "tile.hpp"

namespace lccl {
namespace {

// Base gives the vector operations, Fused its register.
template <class Base, class Fused>
struct UnfusedOf : Base {
    struct Register : Fused {
        template <int Vectors>
        static void add(typename Fused::Sum* sum, const float* input, const typename Fused::Weights* w) {
            const auto value = Base::broadcast(*input);
            for (int v = 0; v < Vectors; ++v) sum[v] = Base::add(sum[v], Base::mul(value, w[v]));
        }
    };

    template <int Rows, int Vectors>
    static void tile(const float* const* row, uint32_t runs, uint32_t run, size_t pitch, const float* weights,
                     float* sums) {
        sum_tile<Register, Rows, Vectors>(row, runs, run, pitch, weights, sums);
    }
};

}  // namespace
}  // namespace lccl
