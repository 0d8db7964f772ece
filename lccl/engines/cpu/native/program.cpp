// Takes a plan's buffers and steps, and checks that they fit.
#include "program.hpp"

#include <limits>
#include <stdexcept>

#include "rounding.hpp"

namespace lccl {

void refuse(const std::string& what) { throw std::invalid_argument(what); }

Program::Program(const Kernels& kernels, uint32_t threads, uint32_t streams, uint32_t sets, uint32_t layers,
                 uint32_t exits, size_t cache_bytes)
    : kernels_(kernels), sets_(sets), layers_(layers), cache_bytes_(cache_bytes), exits_(exits, false),
      gate_shapes_(layers, {0, 0}) {
    if (!sets) refuse("a plan has at least one normalisation set");
    if (!streams || streams > threads) refuse("there is at least one stream, and a thread for each");
    streams_.push_back(std::make_unique<Stream>(threads));
    for (uint32_t number = 0; streams > 1 && number < streams; ++number) {
        streams_.push_back(std::make_unique<Stream>(threads / streams));
    }
}

Program::~Program() {
    // In a forked child the threads are missing and what they wait on can be neither joined nor destroyed.
    if (streams_.empty() || !whole().pool->forked()) return;
    for (const auto& stream : streams_) {
        static_cast<void>(stream->pool.release());
        static_cast<void>(stream->joint.team.release());
    }
}

// ---- what a step may read and write: whatever breaks these rules could read memory that nothing wrote, or write what
// is still read

void Program::check_buffer(int buffer) const {
    if (buffer < 0 || static_cast<size_t>(buffer) >= maps_.size()) refuse("a step names a buffer that is not there");
}

void Program::check_reads(std::initializer_list<int> buffers) const {
    if (state_ != State::kOpen) refuse("a finished plan takes no more steps or buffers");
    for (const int number : buffers) {
        check_buffer(number);
        if (!written_[static_cast<size_t>(number)]) refuse("a step reads a buffer that no step before it writes");
        if (buffer(number).single) refuse("only classifiers and exits read pooled features");
    }
}

void Program::check_write(int buffer) const {
    check_buffer(buffer);
    if (written_[static_cast<size_t>(buffer)]) refuse("a step writes a buffer that a step before it writes");
}

void Program::check_map(int number, uint32_t channels, uint32_t height, uint32_t width, const char* what) const {
    check_buffer(number);
    const Map& map = buffer(number);
    if (map.channels != channels || map.height != height || map.width != width) {
        refuse(std::string(what) + " has the wrong shape");
    }
}

void Program::check_residual(const ConvolutionLayout& layout, uint32_t height, uint32_t width) const {
    check_reads({layout.residual});
    const Map& map = buffer(layout.residual);
    const uint32_t by = layout.residual_stride;
    if (!by || ceil_div(map.height, by) != height || ceil_div(map.width, by) != width ||
        map.channels > layout.filter.out) {
        refuse("a residual does not fit its step");
    }
}

void Program::check_gate(const GateLayout& gate, const ConvolutionLayout& layout) const {
    check_reads({gate.input});
    const Map &map = buffer(gate.input), &in = buffer(layout.input);
    const Filter& filter = gate.filter;
    if (gate.layer < 0 || static_cast<uint32_t>(gate.layer) >= layers_) refuse("a gate's layer is out of range");
    if (gate_shapes_[static_cast<size_t>(gate.layer)].first) refuse("two gates have the same layer");
    if (map.channels != filter.in || map.height != in.height || map.width != in.width) {
        refuse("a gate's input does not fit");
    }
    if (filter.kernel % 2 == 0 || filter.kernel > 63) refuse("a gate's kernel must be odd and below 64");
    if (!filter.out || layout.filter.out % filter.out) refuse("a gate's maps do not divide the channels");
}

void Program::check_pooled(int number, uint32_t channels, uint32_t grid) const {
    check_reads({});
    check_buffer(number);
    const Map& map = buffer(number);
    if (!map.single || map.channels != channels || map.height != grid || map.width != grid) {
        refuse("a classifier or an exit reads pooled features of its weight's shape");
    }
}

void Program::check_classes(uint32_t classes) const {
    if (classified_) refuse("a plan has one classifier, after all exits");
    if (!classes || (classes_ && classes != classes_)) refuse("a plan's classifier and exits have the same classes");
}

// ---- what lasts as long as the program

void Program::append(Step step, Use use, Strides strides) {
    for (const int buffer : use.writes) written_[static_cast<size_t>(buffer)] = true;
    steps_.push_back(std::move(step));
    uses_.push_back(std::move(use));
    strides_.push_back(strides);
}

const void* Program::keep(Memory memory) {
    packed_.push_back(std::move(memory));
    return packed_.back().get();
}

const float* Program::keep(std::vector<float> values) {
    floats_.push_back(std::move(values));
    return floats_.back().data();
}

const float* Program::keep_affine(const std::vector<float>& values, uint32_t channels) {
    if (values.empty()) return nullptr;
    if (values.size() != size_t{sets_} * channels) refuse("a scale or shift must be [sets, channels]");
    return keep(values);
}

// ---- adding buffers and steps

int Program::add_buffer(uint32_t channels, uint32_t height, uint32_t width) {
    check_reads({});
    if (!channels || !height || !width || uint64_t{height} * width > kPositionMask || channels > (1u << 20)) {
        refuse("a buffer needs 1 to 2^20 channels and fewer than 2^24 positions");
    }
    maps_.push_back(Map{nullptr, 0, channels, height, width, 0, false});
    written_.push_back(false);
    if (bytes(maps_.back()) / 4 > std::numeric_limits<uint32_t>::max() / 2) refuse("a buffer is too large");
    return static_cast<int>(maps_.size()) - 1;
}

void Program::add_normalise(const std::vector<float>& mean, const std::vector<float>& std, int raw) {
    check_reads({});
    check_write(raw);
    const uint32_t channels = buffer(raw).channels;
    if (image_ != kNone || !steps_.empty()) refuse("a plan starts with Normalise, and has one only");
    if (mean.size() != channels || std.size() != channels) refuse("mean and std must be [channels]");
    image_ = raw;
    append(NormaliseStep{raw, keep(pixel_table(kernels_, mean, std))}, {{}, {raw}}, {});
}

GateSpec Program::make_gate(const GateLayout& gate, uint32_t out_channels) {
    const Filter& filter = gate.filter;
    GateSpec spec{};
    spec.layer = gate.layer;
    spec.input = gate.input;
    spec.groups = filter.out;
    spec.kernel = filter.kernel;
    spec.runs = filter.kernel;
    spec.run = filter.kernel * filter.in;
    // Rows of fewer channels than a vector would be mostly padding.
    spec.per_cell = spec.groups > 1 && out_channels / spec.groups < 16;
    spec.weights = keep(spec.per_cell ? pack(kernels_, filter, 1).weights : pack_dots(kernels_, filter));
    spec.scale = keep_affine(gate.affine.scale, spec.groups);
    spec.shift = keep_affine(gate.affine.shift, spec.groups);
    if (!spec.scale || !spec.shift) refuse("a gate needs a scale and a shift");
    return spec;
}

void Program::add_convolution(const ConvolutionLayout& layout) {
    const Filter& filter = layout.filter;
    check_reads({layout.input});
    const Map& in = buffer(layout.input);
    if (filter.in != in.channels) refuse("a convolution's weight does not fit its input's channels");
    if (filter.kernel % 2 == 0 || filter.kernel > 63) refuse("a convolution's kernel must be odd and below 64");
    if (!layout.stride || layout.stride > 64) refuse("a convolution's stride must lie in 1..64");
    if (layout.raw == layout.activated) refuse("a convolution needs an output, or two different ones");
    const uint32_t height = ceil_div(in.height, layout.stride), width = ceil_div(in.width, layout.stride);
    Use use{{layout.input}, {}};
    for (const int output : {layout.raw, layout.activated}) {
        if (output == kNone) continue;
        check_write(output);
        check_map(output, filter.out, height, width, "a convolution's output");
        use.writes.push_back(output);
    }
    if (layout.residual != kNone) {
        check_residual(layout, height, width);
        use.reads.push_back(layout.residual);
    }
    if (layout.gate) {
        check_gate(*layout.gate, layout);
        use.reads.push_back(layout.gate->input);
    }
    const ConvolveStep step = make_convolution(layout, height * width);
    append(step, std::move(use), {layout.stride, layout.residual_stride, step.gate.kernel});
    if (layout.gate) gate_shapes_[static_cast<size_t>(step.gate.layer)] = {step.gate.groups, step.positions};
}

ConvolveStep Program::make_convolution(const ConvolutionLayout& layout, uint32_t positions) {
    const Filter& filter = layout.filter;
    ConvolveStep step{};
    step.input = layout.input;
    step.residual = layout.residual;
    step.raw = layout.raw;
    step.activated = layout.activated;
    step.in_channels = filter.in;
    step.out_channels = filter.out;
    step.positions = positions;
    step.kernel = filter.kernel;
    step.runs = filter.kernel;
    step.run = filter.kernel * filter.in;
    step.relu = layout.relu;
    step.scale = keep_affine(layout.affine.scale, filter.out);
    step.shift = keep_affine(layout.affine.shift, filter.out);
    step.activated_scale = keep_affine(layout.activation.scale, filter.out);
    step.activated_shift = keep_affine(layout.activation.shift, filter.out);
    step.gate.layer = kNone;
    if (layout.gate) step.gate = make_gate(*layout.gate, filter.out);
    step.groups = layout.gate && !step.gate.per_cell ? step.gate.groups : 1;
    Packed packed = pack(kernels_, filter, step.groups);
    step.vector_weights = packed.vector_size;
    step.group_weights = packed.group_size;
    step.weights = keep(std::move(packed.weights));
    step.heavy = step.groups * step.group_weights * kernels_.element() > cache_bytes_;
    return step;
}

void Program::add_max_pool(int input, uint32_t kernel, uint32_t stride, int raw) {
    check_reads({input});
    check_write(raw);
    const Map& in = buffer(input);
    if (kernel % 2 == 0 || kernel > 63 || !stride || stride > 64) refuse("a pool's kernel must be odd, its stride ≥ 1");
    check_map(raw, in.channels, ceil_div(in.height, stride), ceil_div(in.width, stride), "a pool's output");
    append(MaxPoolStep{input, raw, kernel, stride}, {{input}, {raw}}, {});
}

void Program::add_average_pool(int input, uint32_t grid, int raw) {
    check_reads({input});
    check_write(raw);
    if (!grid || grid > 64) refuse("an average pool has 1 to 64 parts a side");
    check_map(raw, buffer(input).channels, grid, grid, "a pool's output");
    maps_[static_cast<size_t>(raw)].single = true;
    append(AveragePoolStep{input, raw, grid}, {{input}, {raw}}, {});
}

// Pooled features lie part by part, a part's channels together: a filter's rows are packed in that order.
Linear Program::make_linear(const Filter& filter, const std::vector<float>& bias) {
    if (bias.size() != filter.out) refuse("a linear layer has a bias per output");
    Packed packed = pack_single(kernels_, filter);
    const float* weights = static_cast<const float*>(keep(std::move(packed.weights)));
    return {filter.kernel * filter.kernel * filter.in, filter.out, packed.vector_size, weights, keep(bias)};
}

void Program::add_exit(uint32_t exit, int input, const Filter& hidden, const std::vector<float>& hidden_bias,
                       const Filter& answer, const std::vector<float>& bias) {
    check_pooled(input, hidden.in, hidden.kernel);
    check_classes(answer.out);
    if (answer.in != hidden.out) refuse("an exit's weight does not fit its hidden layer");
    if (exit >= exits()) refuse("an exit's number is out of range");
    if (exits_[exit]) refuse("two exits have the same number");
    append(ExitStep{input, exit, make_linear(hidden, hidden_bias), make_linear(answer, bias)}, {{input}, {}}, {});
    exits_[exit] = true;
    classes_ = answer.out;
}

void Program::add_classifier(int input, const Filter& filter, const std::vector<float>& bias) {
    check_pooled(input, filter.in, 1);
    check_classes(filter.out);
    append(ClassifyStep{input, make_linear(filter, bias)}, {{input}, {}}, {});
    classified_ = true;
    classes_ = filter.out;
}

}  // namespace lccl
