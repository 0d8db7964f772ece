// AMX's tile registers: configured, loaded and stored; what they multiply is the precision's.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace lccl {
namespace {

// The registers themselves; those that hold sums start at 0.
struct TileRegisters {
    TileRegisters() {
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
    ~TileRegisters() { _tile_release(); }

    // The intrinsics take literal numbers only.
    template <int Tile>
    void load(const char* source, size_t pitch) {
        const long stride = static_cast<long>(pitch);
        if constexpr (Tile == 4) _tile_loadd(4, source, stride);
        if constexpr (Tile == 5) _tile_loadd(5, source, stride);
        if constexpr (Tile == 6) _tile_loadd(6, source, stride);
        if constexpr (Tile == 7) _tile_loadd(7, source, stride);
    }
    template <int Tile>
    void store(void* target, size_t pitch) {
        const long stride = static_cast<long>(pitch);
        if constexpr (Tile == 0) _tile_stored(0, target, stride);
        if constexpr (Tile == 1) _tile_stored(1, target, stride);
        if constexpr (Tile == 2) _tile_stored(2, target, stride);
        if constexpr (Tile == 3) _tile_stored(3, target, stride);
    }
};

}  // namespace
}  // namespace lccl
