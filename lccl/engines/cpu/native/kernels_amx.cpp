#include "steps.hpp"

#ifdef __AMX_BF16__
#include "isa/avx512_bf16.hpp"

#include "isa/amx.hpp"
#include "isa/amx_registers.hpp"
#endif

namespace lccl {

#ifdef __AMX_BF16__
namespace {

struct Registers : TileRegisters {
    using TileRegisters::TileRegisters;
    template <int Sums, int Rows, int Weights>
    void multiply() {
        static_assert(Rows == 4 + Sums / 2 && Weights == 6 + Sums % 2, "these four products are all there are");
        if constexpr (Sums == 0) _tile_dpbf16ps(0, 4, 6);
        if constexpr (Sums == 1) _tile_dpbf16ps(1, 4, 7);
        if constexpr (Sums == 2) _tile_dpbf16ps(2, 5, 6);
        if constexpr (Sums == 3) _tile_dpbf16ps(3, 5, 7);
    }
};

}  // namespace

static constexpr Kernels kernels = kernels_of<AmxOf<Avx512Bf16, Registers>>("amx", Precision::bf16);
const Kernels* const kAmx = &kernels;
#else
const Kernels* const kAmx = nullptr;
#endif

}  // namespace lccl
