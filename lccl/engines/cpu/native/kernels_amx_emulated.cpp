// AMX's tiles in plain C++, so that everything around them is tested on machines without AMX. Never chosen by itself.
#include "steps.hpp"

#include "isa/portable.hpp"

#include "isa/amx.hpp"

namespace lccl {
namespace {

struct Emulated {
    BFloat16 inputs[8][16][32] = {};
    float sums[4][16][16] = {};

    template <int Tile>
    void load(const char* source, size_t pitch) {
        for (int row = 0; row < 16; ++row) std::memcpy(inputs[Tile][row], source + row * pitch, 64);
    }
    template <int Sums, int Rows, int Weights>
    void multiply() {
        for (int row = 0; row < 16; ++row) {
            for (int pair = 0; pair < 16; ++pair) {
                for (int channel = 0; channel < 16; ++channel) {
                    sums[Sums][row][channel] +=
                        widen(inputs[Rows][row][2 * pair]) * widen(inputs[Weights][pair][2 * channel]) +
                        widen(inputs[Rows][row][2 * pair + 1]) * widen(inputs[Weights][pair][2 * channel + 1]);
                }
            }
        }
    }
    template <int Tile>
    void store(float* target, size_t pitch) {
        for (int row = 0; row < 16; ++row) std::memcpy(target + row * pitch / 4, sums[Tile][row], 64);
    }
};

}  // namespace

static constexpr Kernels kernels = kernels_of<AmxOf<PortableOf<BFloat16, 16>, Emulated>>("amx_emulated", true);
const Kernels* const kAmxEmulated = &kernels;

}  // namespace lccl
