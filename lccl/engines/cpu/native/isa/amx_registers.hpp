// AMX's tile registers: configured, loaded and stored; what they multiply is the precision's.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace lccl {
namespace {

// The registers themselves; those that hold sums start at 0.
struct TileRegisters {
    // Their shapes. Setting these takes as long as multiplying a few tiles.
    class State {
      public:
        State() = default;
        State(const State&) = delete;
        State& operator=(const State&) = delete;
        // At the end, or the system keeps the registers' contents with the thread's. No destructor: that would bring in code
        // for exceptions.
        void release() {
            if (piece_) _tile_release();
            piece_ = 0;
        }
        // Inputs have `piece` bytes a row, weights as many rows as that needs.
        void shape(uint32_t piece) {
            if (piece == piece_) return;
            piece_ = piece;
            struct alignas(64) Shape {
                uint8_t palette = 1, start = 0, reserved[14] = {};
                uint16_t bytes[16] = {};
                uint8_t rows[16] = {};
            } shape;
            for (int tile = 0; tile < 8; ++tile) {
                shape.bytes[tile] = tile == 4 || tile == 5 ? static_cast<uint16_t>(piece) : 64;
                shape.rows[tile] = tile == 6 || tile == 7 ? static_cast<uint8_t>(piece / 4) : 16;
            }
            _tile_loadconfig(&shape);
        }

      private:
        uint32_t piece_ = 0;
    };

    explicit TileRegisters(const State&) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }

    // Copies `runs` pieces that lie `pitch` bytes apart to places `step` bytes apart; what it writes beyond a piece, up to
    // a multiple of 64 bytes, are zeros.
    class Copy {
      public:
        Copy(size_t bytes, uint32_t runs, size_t step, size_t pitch)
            : whole_(bytes / 64 * 64), rest_((__mmask64{1} << bytes % 64) - 1), runs_(runs), step_(step), pitch_(pitch) {}
        void operator()(char* to, const char* from) const {
            for (uint32_t run = 0; whole_ && run < runs_; ++run) {
                const char* const source = from + run * pitch_;
                char* const target = to + run * step_;
                for (size_t byte = 0; byte < whole_; byte += 64) {
                    _mm512_storeu_si512(target + byte, _mm512_loadu_si512(source + byte));
                }
                if (rest_) _mm512_storeu_si512(target + whole_, _mm512_maskz_loadu_epi8(rest_, source + whole_));
            }
            for (uint32_t run = 0; !whole_ && run < runs_; ++run, from += pitch_, to += step_) {
                _mm512_storeu_si512(to, _mm512_maskz_loadu_epi8(rest_, from));
            }
        }

      private:
        const size_t whole_;
        const __mmask64 rest_;
        const uint32_t runs_;
        const size_t step_, pitch_;
    };
    static void clear_line(char* target) { _mm512_storeu_si512(target, _mm512_setzero_si512()); }

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
