// Checks of int8: exact only where no sum exceeds 32 bits and no value float32.
#include <cfloat>
#include <cmath>

#include "builder.hpp"

namespace lccl {

namespace {

constexpr double kMostSum = 2147483647.0;
constexpr double kMostFloat = FLT_MAX * 0.999;  // room for the rounding of a few operations

// What a sum of a channel cannot exceed, whatever the inputs.
std::vector<double> most_sums(const Filter& filter, const std::vector<int32_t>& correction) {
    std::vector<double> most(filter.out);
    const size_t size = size_t{filter.in} * filter.kernel * filter.kernel;
    for (uint32_t channel = 0; channel < filter.out; ++channel) {
        const int8_t* weights = filter.integers + channel * size;
        int64_t sum = channel < correction.size() ? std::abs(static_cast<int64_t>(correction[channel])) : 0;
        for (size_t k = 0; k < size; ++k) sum += 255 * std::abs(int64_t{weights[k]});
        most[channel] = static_cast<double>(sum);
        if (most[channel] > kMostSum) refuse("a sum of int8 products could exceed 32 bits");
    }
    return most;
}

// What |scale · value + shift| cannot exceed.
double after(const Affine& affine, uint32_t channel, double most) {
    if (affine.scale.empty()) return most;
    return most * std::fabs(affine.scale[channel]) + std::fabs(affine.shift[channel]);
}

void check_affine(const Affine& affine, uint32_t channels, bool optional) {
    if (affine.scale.empty() ? !optional : affine.scale.size() != channels) {
        refuse("an int8 step has a scale and a shift per channel");
    }
}

void check_value(double most) {
    if (!(most <= kMostFloat)) refuse("an int8 step's scales are not finite, or a value could exceed float32");
}

bool is_image(const Program& program, int buffer) { return buffer == std::get<NormaliseStep>(program.steps[0]).raw; }

}  // namespace

void check_quantum(const Program& program, const Buffer& buffer, bool image) {
    if (!program.kernels->quantised() || (image && !buffer.quantised)) return;
    if (buffer.quantised == buffer.map.pooled) {
        refuse("int8 needs a quantised plan: a quantum for every map, and none for pooled features");
    }
    if (!buffer.quantised) return;
    if (!(buffer.map.scale > 0.0) || !(256.0 * buffer.map.scale <= kMostFloat)) {
        refuse("a buffer's scale must be finite and above 0");
    }
    if (buffer.map.zero != 0 && buffer.map.zero != 128) refuse("a buffer's zero must be 0 or 128");
}

void check_arithmetic(const Program& program, const ConvolveStep& step, const ConvolutionWeights& weights) {
    const Filter &filter = weights.filter, &gate = weights.gate;
    if (step.residual != kNone && is_image(program, step.residual)) {
        refuse("in int8 only windows of convolutions and gates read the image");
    }
    if (step.activated != kNone && program.map(step.activated).zero != 0) {
        refuse("an activated buffer's zero must be 0");
    }
    check_affine(weights.affine, filter.out, false);
    check_affine(weights.activation, filter.out, true);
    const std::vector<double> sums = most_sums(filter, weights.correction);
    std::vector<double> gates;
    if (step.gate.layer != kNone) {
        check_affine(weights.gate_affine, gate.out, false);
        gates = most_sums(gate, weights.gate_correction);
    }
    for (uint32_t channel = 0; channel < filter.out; ++channel) {
        double most = after(weights.affine, channel, sums[channel]);
        check_value(most);
        if (!gates.empty()) {
            const uint32_t map = channel / (filter.out / gate.out);
            const double kept = after(weights.gate_affine, map, gates[map]);
            check_value(kept);
            most *= kept;
            check_value(most);
        }
        if (step.residual != kNone) most += 255.0 * std::fabs(step.residual_scale);
        check_value(most);
        check_value(after(weights.activation, channel, most));
    }
}

void check_pool(const Program& program, int input, int output) {
    if (!program.kernels->quantised()) return;
    const Map &in = program.map(input), &out = program.map(output);
    if (is_image(program, input)) refuse("in int8 only windows of convolutions and gates read the image");
    if (!out.pooled && (in.scale != out.scale || in.zero != out.zero)) refuse("a max-pool keeps its input's quantum");
    if (255.0 * in.height * in.width > kMostSum) refuse("a sum of an average pool could exceed 32 bits");
}

}  // namespace lccl
