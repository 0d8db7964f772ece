#include "steps.hpp"

#ifdef __AMX_BF16__
#include "isa/avx512_bf16.hpp"

#include "isa/amx.hpp"
#endif

namespace lccl {

#ifdef __AMX_BF16__
namespace {

// The registers themselves; those that hold sums start at 0.
struct Registers {
    Registers() {
        struct alignas(64) Shape {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t bytes[16] = {};
            uint8_t rows[16] = {};
        } shape;
        for (int tile = 0; tile < 8; ++tile) {
            shape.bytes[tile] = 64;
            shape.rows[tile] = 16;
        }
        _tile_loadconfig(&shape);
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    ~Registers() { _tile_release(); }

    // The intrinsics take literal numbers only.
    template <int Tile>
    void load(const char* source, size_t pitch) {
        const long stride = static_cast<long>(pitch);
        if constexpr (Tile == 4) _tile_loadd(4, source, stride);
        if constexpr (Tile == 5) _tile_loadd(5, source, stride);
        if constexpr (Tile == 6) _tile_loadd(6, source, stride);
        if constexpr (Tile == 7) _tile_loadd(7, source, stride);
    }
    template <int Sums, int Rows, int Weights>
    void multiply() {
        static_assert(Rows == 4 + Sums / 2 && Weights == 6 + Sums % 2, "these four products are all there are");
        if constexpr (Sums == 0) _tile_dpbf16ps(0, 4, 6);
        if constexpr (Sums == 1) _tile_dpbf16ps(1, 4, 7);
        if constexpr (Sums == 2) _tile_dpbf16ps(2, 5, 6);
        if constexpr (Sums == 3) _tile_dpbf16ps(3, 5, 7);
    }
    template <int Tile>
    void store(float* target, size_t pitch) {
        const long stride = static_cast<long>(pitch);
        if constexpr (Tile == 0) _tile_stored(0, target, stride);
        if constexpr (Tile == 1) _tile_stored(1, target, stride);
        if constexpr (Tile == 2) _tile_stored(2, target, stride);
        if constexpr (Tile == 3) _tile_stored(3, target, stride);
    }
};

}  // namespace

static constexpr Kernels kernels = kernels_of<AmxOf<Avx512Bf16, Registers>>("amx", true);
const Kernels* const kAmx = &kernels;
#else
const Kernels* const kAmx = nullptr;
#endif

}  // namespace lccl
