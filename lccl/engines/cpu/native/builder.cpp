#include "builder.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace lccl {

namespace {

constexpr uint32_t kLargestKernel = kLargestPool, kLargestStride = 64;

void check_window(uint32_t kernel, uint32_t stride, const char* what) {
    if (kernel % 2 == 0 || kernel > kLargestKernel || !stride || stride > kLargestStride) {
        refuse(std::string(what) + "'s kernel must be odd and below 64, its stride in 1..64");
    }
}

}  // namespace

void refuse(const std::string& what) { throw std::invalid_argument(what); }

ProgramBuilder::ProgramBuilder(const Kernels& kernels, uint32_t layers, uint32_t exits, size_t cache_bytes)
    : cache_bytes_(cache_bytes), program_(std::make_unique<Program>()), exits_(exits, false) {
    program_->kernels = &kernels;
    program_->layers = layers;
    program_->exits = exits;
    program_->gates.resize(layers);
}

// ---- buffers

void ProgramBuilder::add_buffer(Buffer buffer, const std::string& storage) {
    const auto [base, image_stride, channels, height, width, border, pooled, zero, scale] = buffer.map;
    if (!channels || !height || !width || uint64_t{height} * width > kPositionMask || channels > (1u << 20)) {
        refuse("a buffer needs 1 to 2^20 channels and fewer than 2^24 positions");
    }
    if (border > kLargestKernel / 2 || (border && pooled)) refuse("a border is 0 to 31 wide, of pooled features 0");
    const uint64_t elements = uint64_t{height + 2 * border} * (width + 2 * border) * channels;
    if (elements > std::numeric_limits<uint32_t>::max() / 4) refuse("a buffer is too large");
    if (buffer.quantised && !program_->kernels->quantised()) refuse("a quantised plan runs in int8 only");
    for (const Buffer& other : program_->buffers) {
        if (other.name == buffer.name) refuse("two buffers have the same name");
    }
    program_->buffers.push_back(std::move(buffer));
    storages_.push_back(storage);
    written_.push_back(false);
}

int ProgramBuilder::number_of(const std::string& name) const {
    for (size_t number = 0; number < program_->buffers.size(); ++number) {
        if (program_->buffers[number].name == name) return static_cast<int>(number);
    }
    refuse("a step or a storage names a buffer that is not there");
}

// ---- what a step may read and write

void ProgramBuilder::check_written(int number) const {
    if (!written_[static_cast<size_t>(number)]) refuse("a step reads a buffer that no step before it writes");
}

void ProgramBuilder::check_reads(int number) const {
    check_written(number);
    if (map(number).pooled) refuse("only classifiers and exits read pooled features");
}

void ProgramBuilder::check_write(int number, uint32_t channels, uint32_t height, uint32_t width, bool pooled) const {
    if (written_[static_cast<size_t>(number)]) refuse("a step writes a buffer that a step before it writes");
    const Map& out = map(number);
    if (out.channels != channels || out.height != height || out.width != width) {
        refuse("a step's output has the wrong shape");
    }
    if (out.pooled != pooled) refuse("average pools write pooled features, and no other step does");
}

void ProgramBuilder::check_residual(const ConvolveStep& step, uint32_t height, uint32_t width) const {
    check_reads(step.residual);
    const Map& residual = map(step.residual);
    const uint32_t by = step.residual_stride;
    if (!by || ceil_div(residual.height, by) != height || ceil_div(residual.width, by) != width ||
        residual.channels > step.out_channels) {
        refuse("a residual does not fit its step");
    }
}

void ProgramBuilder::check_gate(const ConvolveStep& step, const Filter& filter) const {
    const GateSpec& gate = step.gate;
    check_reads(gate.input);
    const Map &source = map(gate.input), &in = map(step.input);
    if (static_cast<uint32_t>(gate.layer) >= program_->layers) refuse("a gate's layer is out of range");
    if (program_->gates[static_cast<size_t>(gate.layer)].maps) refuse("two gates have the same layer");
    if (source.channels != filter.in || source.height != in.height || source.width != in.width) {
        refuse("a gate's input does not fit");
    }
    check_window(filter.kernel, step.stride, "a gate");
    if (step.out_channels % filter.out) refuse("a gate's maps do not divide the channels");
}

void ProgramBuilder::check_pooled(int number, const Filter& filter) const {
    check_written(number);
    const Map& in = map(number);
    if (!in.pooled || in.channels != filter.in || in.height != filter.kernel || in.width != filter.kernel) {
        refuse("a classifier or an exit reads pooled features of its weight's shape");
    }
}

void ProgramBuilder::set_classes(uint32_t classes) {
    if (program_->classes && classes != program_->classes) {
        refuse("a plan's classifier and exits have the same classes");
    }
    program_->classes = classes;
}

// ---- what lasts as long as the program

void ProgramBuilder::append(Step step, Uses uses) {
    if (classified_) refuse("a plan ends with its classifier");
    const bool first = std::holds_alternative<NormaliseStep>(step);
    if (first != program_->steps.empty()) refuse("a plan starts with Normalise, and has one only");
    for (const int buffer : uses.writes) written_[static_cast<size_t>(buffer)] = true;
    program_->steps.push_back(std::move(step));
    program_->uses.push_back(std::move(uses));
}

const void* ProgramBuilder::keep(Memory memory) {
    program_->packed.push_back(std::move(memory));
    return program_->packed.back().get();
}

// Null where there are none, or nothing but zeros to add to sums.
const float* ProgramBuilder::keep(const std::vector<float>& values, uint32_t channels) {
    if (values.empty()) return nullptr;
    if (values.size() != channels) refuse("a scale, a shift or a bias has a value per channel");
    program_->floats.push_back(values);
    return program_->floats.back().data();
}

const int32_t* ProgramBuilder::keep(std::vector<int32_t> correction, const Filter& filter) {
    if (correction.size() != (program_->kernels->quantised() ? filter.out : 0)) {
        refuse("an offset of sums has a value per channel in int8, and is not there otherwise");
    }
    const size_t size = size_t{filter.in} * filter.kernel * filter.kernel;
    for (size_t channel = 0; channel < correction.size(); ++channel) {
        const int8_t* weights = filter.integers + channel * size;
        correction[channel] += program_->kernels->taken_off * std::accumulate(weights, weights + size, 0);
    }
    if (std::all_of(correction.begin(), correction.end(), [](int32_t value) { return !value; })) return nullptr;
    program_->integers.push_back(std::move(correction));
    return program_->integers.back().data();
}

// ---- steps

void ProgramBuilder::add(NormaliseStep step, const std::vector<float>& mean, const std::vector<float>& std,
                         const std::vector<uint8_t>& zero) {
    const Map& out = map(step.raw);
    check_write(step.raw, out.channels, out.height, out.width);
    if (mean.size() != out.channels || std.size() != out.channels) refuse("mean and std must be [channels]");
    if (zero.size() != (program_->kernels->quantised() ? out.channels : 0)) {
        refuse("pixels of 0 are [channels] in int8, and are not there otherwise");
    }
    if (program_->kernels->quantised()) {
        std::vector<float> scale, shift;
        for (const float value : std) scale.push_back(255.0f * value);
        for (const float value : mean) shift.push_back(255.0f * value);
        step.scale = keep(scale, out.channels);
        step.shift = keep(shift, out.channels);
        program_->zeros = zero;
        step.zero = program_->zeros.data();
    } else {
        step.table = keep(pixel_table(*program_->kernels, mean, std));
    }
    append(step, {{}, {step.raw}});
}

void ProgramBuilder::add(ConvolveStep step, const ConvolutionWeights& weights) {
    const Filter& filter = weights.filter;
    const Kernels& kernels = *program_->kernels;
    check_reads(step.input);
    const Map& in = map(step.input);
    if (filter.in != in.channels) refuse("a convolution's weight does not fit its input's channels");
    check_window(filter.kernel, step.stride, "a convolution");
    if (step.raw == step.activated) refuse("a convolution needs an output, or two different ones");
    step.in_channels = filter.in;
    step.out_channels = filter.out;
    step.runs = filter.kernel;
    step.run = filter.kernel * filter.in;
    const uint32_t height = ceil_div(in.height, step.stride), width = ceil_div(in.width, step.stride);
    step.positions = height * width;
    Uses uses{{step.input}, {}};
    for (const int output : {step.raw, step.activated}) {
        if (output == kNone) continue;
        check_write(output, filter.out, height, width);
        uses.writes.push_back(output);
    }
    if (step.residual != kNone) {
        check_residual(step, height, width);
        uses.reads.push_back(step.residual);
    }
    step.groups = 1;
    if (step.gate.layer != kNone) {
        check_gate(step, weights.gate);
        uses.reads.push_back(step.gate.input);
        pack_gate(step, weights, height, width);
    }
    if (kernels.quantised()) check_arithmetic(*program_, step, weights);
    step.correction = keep(weights.correction, filter);
    step.scale = keep(weights.affine.scale, filter.out);
    step.shift = keep(weights.affine.shift, filter.out);
    step.activated_scale = keep(weights.activation.scale, filter.out);
    step.activated_shift = keep(weights.activation.shift, filter.out);
    Packed packed = pack(kernels, filter, step.groups);
    step.vector_weights = packed.vector_size;
    step.group_weights = packed.group_size;
    step.weights = keep(std::move(packed.weights));
    step.heavy = step.groups * step.group_weights * kernels.element() > cache_bytes_;
    append(step, std::move(uses));
}

void ProgramBuilder::pack_gate(ConvolveStep& step, const ConvolutionWeights& weights, uint32_t height,
                               uint32_t width) {
    const Kernels& kernels = *program_->kernels;
    const Filter& filter = weights.gate;
    GateSpec& gate = step.gate;
    gate.groups = filter.out;
    gate.runs = filter.kernel;
    gate.run = filter.kernel * filter.in;
    // Rows of fewer channels than a vector would be mostly padding.
    gate.per_cell = gate.groups > 1 && step.out_channels / gate.groups < 16;
    gate.weights = keep(gate.per_cell ? pack(kernels, filter, 1).weights : pack_dots(kernels, filter));
    gate.correction = keep(weights.gate_correction, filter);
    gate.scale = keep(weights.gate_affine.scale, gate.groups);
    gate.shift = keep(weights.gate_affine.shift, gate.groups);
    if (!gate.scale || !gate.shift) refuse("a gate needs a scale and a shift");
    if (!gate.per_cell) step.groups = gate.groups;
    program_->gates[static_cast<size_t>(gate.layer)] = {gate.groups, height, width};
}

void ProgramBuilder::add(MaxPoolStep step) {
    check_reads(step.input);
    const Map& in = map(step.input);
    check_window(step.kernel, step.stride, "a pool");
    check_write(step.raw, in.channels, ceil_div(in.height, step.stride), ceil_div(in.width, step.stride));
    check_pool(*program_, step.input, step.raw);
    append(step, {{step.input}, {step.raw}});
}

void ProgramBuilder::add(AveragePoolStep step) {
    check_reads(step.input);
    if (!step.grid || step.grid > 64) refuse("an average pool has 1 to 64 parts a side");
    check_write(step.raw, map(step.input).channels, step.grid, step.grid, true);
    check_pool(*program_, step.input, step.raw);
    append(step, {{step.input}, {step.raw}});
}

// Pooled features lie part by part, a part's channels together: a filter's rows are packed in that order.
Linear ProgramBuilder::linear(const LinearWeights& weights) {
    const Filter& filter = weights.filter;
    Packed packed = pack_single(*program_->kernels, filter);
    const float* values = static_cast<const float*>(keep(std::move(packed.weights)));
    const float* bias = keep(weights.bias, filter.out);
    if (!bias) refuse("a linear layer has a bias per output");
    return {filter.kernel * filter.kernel * filter.in, filter.out, packed.vector_size, values, bias};
}

void ProgramBuilder::add(ExitStep step, const LinearWeights& hidden, const LinearWeights& answer) {
    check_pooled(step.input, hidden.filter);
    if (answer.filter.in != hidden.filter.out) refuse("an exit's weight does not fit its hidden layer");
    if (step.exit >= program_->exits) refuse("an exit's number is out of range");
    if (exits_[step.exit]) refuse("two exits have the same number");
    set_classes(answer.filter.out);
    step.hidden = linear(hidden);
    step.answer = linear(answer);
    append(step, {{step.input}, {}});
    exits_[step.exit] = true;
}

void ProgramBuilder::add(ClassifyStep step, const LinearWeights& answer) {
    check_pooled(step.input, answer.filter);
    set_classes(answer.filter.out);
    step.answer = linear(answer);
    append(step, {{step.input}, {}});
    classified_ = true;
}

std::unique_ptr<const Program> ProgramBuilder::finish() {
    if (!classified_) refuse("a plan has a classifier");
    for (const GateShape& gate : program_->gates) {
        if (!gate.maps) refuse("a layer of the plan has no gate");
    }
    if (std::find(exits_.begin(), exits_.end(), false) != exits_.end()) refuse("an exit of the plan has no step");
    for (size_t number = 0; number < storages_.size(); ++number) {
        program_->buffers[number].storage = number_of(storages_[number]);
    }
    for (const Buffer& buffer : program_->buffers) check_quantum(*program_, buffer, &buffer.map == &program_->image());
    check_memory(*program_);
    lay_out(*program_, cache_bytes_);
    return std::move(program_);
}

}  // namespace lccl
