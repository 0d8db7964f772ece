// AMX's tiles in plain C++, so that everything around them is tested on machines without AMX. Never chosen by itself.
#include "steps.hpp"

#include <cstring>

#include "isa/portable_int8.hpp"

#include "isa/amx.hpp"

namespace lccl {
namespace {

template <class Product>
struct Emulated {
    using Sum = typename Product::Sum;
    static constexpr int step = 4 / sizeof(typename Product::Input);  // of k, in one instruction

    struct State {
        uint32_t piece = 0;
        void shape(uint32_t bytes) { piece = bytes; }
        void release() { piece = 0; }
    };
    explicit Emulated(const State& state) : piece(state.piece) {}

    struct Copy {
        void operator()(char* to, const char* from) const {
            for (uint32_t run = 0; run < runs; ++run, to += step, from += pitch) {
                std::memcpy(to, from, bytes);
                std::memset(to + bytes, 0, round_up(bytes, 64) - bytes);
            }
        }
        size_t bytes;
        uint32_t runs;
        size_t step, pitch;
    };
    static void clear_line(char* target) { std::memset(target, 0, 64); }
    template <int Tile>
    void load(const char* source, size_t pitch) {
        const bool weights = Tile >= 6;
        const uint32_t rows = weights ? piece / 4 : 16, length = weights ? 64 : piece;
        for (uint32_t row = 0; row < rows; ++row) std::memcpy(bytes[Tile][row], source + row * pitch, length);
    }
    template <int Sums, int Rows, int Weights>
    void multiply() {
        for (int row = 0; row < 16; ++row) {
            for (uint32_t k = 0; k < piece / 4; ++k) {
                typename Product::Input inputs[step];
                std::memcpy(inputs, bytes[Rows][row] + 4 * k, 4);
                for (int channel = 0; channel < 16; ++channel) {
                    typename Product::Weight weights[step];
                    std::memcpy(weights, bytes[Weights][k] + 4 * channel, 4);
                    sums[Sums][row][channel] += Product::of(inputs, weights);
                }
            }
        }
    }
    template <int Tile>
    void store(Sum* target, size_t pitch) {
        for (int row = 0; row < 16; ++row) std::memcpy(target + row * pitch / 4, sums[Tile][row], 64);
    }

    const uint32_t piece;
    char bytes[8][16][64] = {};
    Sum sums[4][16][16] = {};
};

struct OfBFloat16 {
    using Input = BFloat16;
    using Weight = BFloat16;
    using Sum = float;
    static Sum of(const Input* a, const Weight* b) { return widen(a[0]) * widen(b[0]) + widen(a[1]) * widen(b[1]); }
};

struct OfInt8 {
    using Input = uint8_t;
    using Weight = int8_t;
    using Sum = int32_t;
    static Sum of(const Input* a, const Weight* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3]; }
};

}  // namespace

static constexpr Kernels kernels =
    kernels_of<AmxOf<PortableOf<BFloat16, 16>, Emulated<OfBFloat16>>>("amx_emulated", Precision::bf16);
static constexpr Kernels int8 =
    kernels_of<AmxOf<PortableInt8Of<16>, Emulated<OfInt8>>>("amx_emulated", Precision::int8);
const Kernels* const kAmxEmulated = &kernels;
const Kernels* const kAmxInt8Emulated = &int8;

}  // namespace lccl
