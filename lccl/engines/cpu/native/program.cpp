#include "program.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace lccl {

namespace {

uint32_t ceil_div(uint32_t a, uint32_t b) { return (a + b - 1) / b; }
size_t round_up(size_t value, size_t step) { return (value + step - 1) / step * step; }

uint16_t to_bf16(float value) {  // to the nearest, ties to even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float from_bf16(uint16_t value) {
    const uint32_t bits = static_cast<uint32_t>(value) << 16;
    float out;
    std::memcpy(&out, &bits, sizeof out);
    return out;
}

void put(char* base, size_t index, size_t element, float value) {
    if (element == 4) {
        std::memcpy(base + 4 * index, &value, 4);
    } else {
        const uint16_t bits = to_bf16(value);
        std::memcpy(base + 2 * index, &bits, 2);
    }
}

float get(const char* base, size_t index, size_t element) {
    if (element == 2) {
        uint16_t bits;
        std::memcpy(&bits, base + 2 * index, 2);
        return from_bf16(bits);
    }
    float value;
    std::memcpy(&value, base + 4 * index, 4);
    return value;
}

[[noreturn]] void refuse(const std::string& what) { throw std::invalid_argument(what); }

}  // namespace

Program::Program(const Kernels& kernels, uint32_t threads, uint32_t sets, uint32_t layers, size_t cache_bytes)
    : kernels_(kernels), sets_(sets), layers_(layers), cache_bytes_(cache_bytes),
      gate_shapes_(layers, {0, 0}), pool_(std::make_unique<Pool>(threads)) {
    if (!sets) refuse("a plan has at least one normalisation set");
}

Program::~Program() {
    // In a forked child the threads are missing and what they wait on can be neither joined nor destroyed.
    if (!pool_->forked()) return;
    static_cast<void>(pool_.release());
    static_cast<void>(joint_.team.release());
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

void Program::check_buffer(int buffer) const {
    if (buffer < 0 || static_cast<size_t>(buffer) >= maps_.size()) refuse("a step names a buffer that is not there");
}

// Whatever breaks these rules could read memory that nothing wrote, or write what is still read.
void Program::check_reads(std::initializer_list<int> buffers) const {
    if (state_ != State::kOpen) refuse("a finished plan takes no more steps or buffers");
    for (const int buffer : buffers) {
        check_buffer(buffer);
        if (!written_[static_cast<size_t>(buffer)]) refuse("a step reads a buffer that no step before it writes");
        if (maps_[static_cast<size_t>(buffer)].single) refuse("only a classifier reads pooled features");
    }
}

void Program::check_write(int buffer) const {
    check_buffer(buffer);
    if (written_[static_cast<size_t>(buffer)]) refuse("a step writes a buffer that a step before it writes");
}

void Program::append(Step step, Use use, Strides strides) {
    for (const int buffer : use.writes) written_[static_cast<size_t>(buffer)] = true;
    steps_.push_back(std::move(step));
    uses_.push_back(std::move(use));
    strides_.push_back(strides);
}

void Program::check_map(int buffer, uint32_t channels, uint32_t height, uint32_t width, const char* what) const {
    check_buffer(buffer);
    const Map& map = maps_[static_cast<size_t>(buffer)];
    if (map.channels != channels || map.height != height || map.width != width) {
        refuse(std::string(what) + " has the wrong shape");
    }
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

void Program::add_normalise(const std::vector<float>& mean, const std::vector<float>& std, int raw) {
    check_reads({});
    check_write(raw);
    const Map& map = maps_[static_cast<size_t>(raw)];
    if (image_ != kNone || !steps_.empty()) refuse("a plan starts with Normalise, and has one only");
    if (mean.size() != map.channels || std.size() != map.channels) refuse("mean and std must be [channels]");
    packed_.push_back(allocate(size_t{map.channels} * 256 * element(map)));
    for (uint32_t c = 0; c < map.channels; ++c) {
        for (uint32_t pixel = 0; pixel < 256; ++pixel) {
            const float value = (static_cast<float>(pixel) / 255.0f - mean[c]) / std[c];
            put(packed_.back().get(), size_t{c} * 256 + pixel, element(map), value);
        }
    }
    image_ = raw;
    append(NormaliseStep{raw, packed_.back().get()}, {{}, {raw}}, {});
}

// Weights as a tile reads them: [group][panel][kernel row][elements / k_step][vector][lane][k_step], zeros in gaps.
const void* Program::pack(const Filter& filter, uint32_t groups, bool single, size_t& vector_size,
                          size_t& group_size) {
    const uint32_t lanes = kernels_.lanes, step = single ? 1 : kernels_.k_step, block = single ? 1 : kernels_.k_block;
    const uint32_t width = single ? kernels_.single_panel : kernels_.panel;
    const uint32_t share = filter.out / groups, vectors = ceil_div(share, lanes), run = filter.kernel * filter.in;
    const uint32_t pairs = ceil_div(run, step);
    const size_t size = single || !kernels_.bf16 ? 4 : 2;
    vector_size = round_up(size_t{filter.kernel} * pairs, block) * step * lanes;
    group_size = vectors * vector_size;
    packed_.push_back(allocate(groups * group_size * size + 64));
    char* base = packed_.back().get();
    for (uint32_t channel = 0; channel < filter.out; ++channel) {
        const uint32_t group = channel / share, vector = channel % share / lanes, lane = channel % share % lanes;
        const uint32_t first = vector / width * width, taken = std::min(width, vectors - first);
        const size_t panel = group * group_size + first * vector_size;
        for (uint32_t r = 0; r < filter.kernel; ++r) {
            for (uint32_t e = 0; e < run; ++e) {
                const uint32_t x = e / filter.in, c = e % filter.in;
                const float value =
                    filter.values[((size_t{channel} * filter.in + c) * filter.kernel + r) * filter.kernel + x];
                const size_t k = size_t{r} * pairs + e / step;
                put(base, panel + ((k * taken + (vector - first)) * lanes + lane) * step + e % step, size, value);
            }
        }
    }
    return base;
}

// A gate's weights for dot products along the channels: [map][kernel row][elements, padded with zeros].
const void* Program::pack_dots(const Filter& filter) {
    const uint32_t run = filter.kernel * filter.in;
    const size_t padded = round_up(run, kernels_.dot_step), size = kernels_.bf16 ? 2 : 4;
    packed_.push_back(allocate(filter.out * filter.kernel * padded * size + 64));
    for (uint32_t map = 0; map < filter.out; ++map) {
        for (uint32_t r = 0; r < filter.kernel; ++r) {
            for (uint32_t e = 0; e < run; ++e) {
                const uint32_t x = e / filter.in, c = e % filter.in;
                const float value =
                    filter.values[((size_t{map} * filter.in + c) * filter.kernel + r) * filter.kernel + x];
                put(packed_.back().get(), (size_t{map} * filter.kernel + r) * padded + e, size, value);
            }
        }
    }
    return packed_.back().get();
}

void Program::add_convolution(const ConvolutionLayout& layout) {
    const Filter& filter = layout.filter;
    check_reads({layout.input});
    const Map& in = maps_[static_cast<size_t>(layout.input)];
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
    ConvolveStep step{};
    step.input = layout.input;
    step.residual = layout.residual;
    step.raw = layout.raw;
    step.activated = layout.activated;
    step.in_channels = filter.in;
    step.out_channels = filter.out;
    step.positions = height * width;
    step.kernel = filter.kernel;
    step.runs = filter.kernel;
    step.run = filter.kernel * filter.in;
    step.relu = layout.relu;
    step.scale = keep_affine(layout.affine.scale, filter.out);
    step.shift = keep_affine(layout.affine.shift, filter.out);
    step.activated_scale = keep_affine(layout.activation.scale, filter.out);
    step.activated_shift = keep_affine(layout.activation.shift, filter.out);
    step.groups = 1;
    step.gate.layer = kNone;
    if (layout.residual != kNone) {
        check_reads({layout.residual});
        const Map& map = maps_[static_cast<size_t>(layout.residual)];
        const uint32_t by = layout.residual_stride;
        if (!by || ceil_div(map.height, by) != height || ceil_div(map.width, by) != width ||
            map.channels > filter.out) {
            refuse("a residual does not fit its step");
        }
        use.reads.push_back(layout.residual);
    }
    uint32_t gate_kernel = 0;
    if (layout.gate) {
        const GateLayout& gate = *layout.gate;
        check_reads({gate.input});
        const Map& map = maps_[static_cast<size_t>(gate.input)];
        if (gate.layer < 0 || static_cast<uint32_t>(gate.layer) >= layers_) refuse("a gate's layer is out of range");
        if (gate_shapes_[static_cast<size_t>(gate.layer)].first) refuse("two gates have the same layer");
        if (map.channels != gate.filter.in || map.height != in.height || map.width != in.width) {
            refuse("a gate's input does not fit");
        }
        if (gate.filter.kernel % 2 == 0 || gate.filter.kernel > 63) refuse("a gate's kernel must be odd and below 64");
        if (!gate.filter.out || filter.out % gate.filter.out) refuse("a gate's maps do not divide the channels");
        gate_kernel = gate.filter.kernel;
        GateSpec& spec = step.gate;
        spec.layer = gate.layer;
        spec.input = gate.input;
        spec.groups = gate.filter.out;
        spec.kernel = gate_kernel;
        spec.runs = gate_kernel;
        spec.run = gate_kernel * gate.filter.in;
        // Rows of fewer channels than a vector would be mostly padding.
        spec.per_cell = spec.groups > 1 && filter.out / spec.groups < 16;
        size_t unused, unused_too;
        spec.weights = spec.per_cell ? pack(gate.filter, 1, false, unused, unused_too) : pack_dots(gate.filter);
        spec.scale = keep_affine(gate.affine.scale, spec.groups);
        spec.shift = keep_affine(gate.affine.shift, spec.groups);
        if (!spec.scale || !spec.shift) refuse("a gate needs a scale and a shift");
        if (!spec.per_cell) step.groups = spec.groups;
        use.reads.push_back(gate.input);
    }
    step.weights = pack(filter, step.groups, false, step.vector_weights, step.group_weights);
    step.heavy = step.groups * step.group_weights * (kernels_.bf16 ? 2 : 4) > cache_bytes_;
    append(step, std::move(use), {layout.stride, layout.residual_stride, gate_kernel});
    if (layout.gate) gate_shapes_[static_cast<size_t>(layout.gate->layer)] = {step.gate.groups, step.positions};
}

void Program::add_max_pool(int input, uint32_t kernel, uint32_t stride, int raw) {
    check_reads({input});
    check_write(raw);
    const Map& in = maps_[static_cast<size_t>(input)];
    if (kernel % 2 == 0 || kernel > 63 || !stride || stride > 64) refuse("a pool's kernel must be odd, its stride ≥ 1");
    check_map(raw, in.channels, ceil_div(in.height, stride), ceil_div(in.width, stride), "a pool's output");
    append(MaxPoolStep{input, raw, kernel, stride}, {{input}, {raw}}, {});
}

void Program::add_average_pool(int input, int raw) {
    check_reads({input});
    check_write(raw);
    check_map(raw, maps_[static_cast<size_t>(input)].channels, 1, 1, "a pool's output");
    maps_[static_cast<size_t>(raw)].single = true;
    append(AveragePoolStep{input, raw}, {{input}, {raw}}, {});
}

void Program::add_classifier(int input, const Filter& filter, const std::vector<float>& bias) {
    check_reads({});
    check_buffer(input);
    const Map& in = maps_[static_cast<size_t>(input)];
    if (!in.single || in.channels != filter.in) refuse("a classifier reads pooled features of its width");
    if (classes_ || bias.size() != filter.out || !filter.out) refuse("a plan has one classifier, and a bias per class");
    size_t vector_size, group_size;
    const void* weights = pack(filter, 1, true, vector_size, group_size);
    classes_ = filter.out;
    append(ClassifyStep{input, filter.in, filter.out, vector_size, static_cast<const float*>(weights), keep(bias)},
           {{input}, {}}, {});
}

// ---- laying out

size_t Program::bytes(const Map& map) const {
    return round_up(size_t{map.height + 2 * map.pad} * (map.width + 2 * map.pad) * map.channels * element(map), 64);
}

// Whether no value of a buffer can be below 0, as the steps before `before` write it.
bool Program::never_negative(int buffer, size_t before) const {
    for (size_t number = before; number-- > 0;) {
        if (const auto* step = std::get_if<ConvolveStep>(&steps_[number])) {
            if (step->activated == buffer) return true;
            if (step->raw == buffer) return step->relu && step->residual == kNone;
        } else if (const auto* pool = std::get_if<MaxPoolStep>(&steps_[number])) {
            if (pool->raw == buffer) return never_negative(pool->input, number);
        } else if (const auto* normalise = std::get_if<NormaliseStep>(&steps_[number])) {
            if (normalise->raw == buffer) return false;
        }
    }
    return false;
}

// An output takes its residual's memory where nothing reads the residual after it: skipped rows are then right already.
void Program::share_places() {
    place_.resize(maps_.size());
    for (size_t number = 0; number < maps_.size(); ++number) place_[number] = static_cast<int>(number);
    for (size_t number = 0; number < steps_.size(); ++number) {
        auto* step = std::get_if<ConvolveStep>(&steps_[number]);
        if (!step || step->residual == kNone) continue;
        const Map& residual = maps_[static_cast<size_t>(step->residual)];
        const int output = step->raw != kNone ? step->raw : step->activated;
        const Map& map = maps_[static_cast<size_t>(output)];
        const bool same = residual.channels == map.channels && residual.height == map.height &&
                          residual.width == map.width && residual.single == map.single;
        const bool read_here = step->residual == step->input ||
                               (step->gate.layer != kNone && step->residual == step->gate.input);
        bool read_later = false;
        for (size_t later = number + 1; later < steps_.size(); ++later) {
            for (const int read : uses_[later].reads) read_later |= read == step->residual;
        }
        const bool unchanged = step->raw != kNone ||
                               (!step->activated_scale && never_negative(step->residual, number));
        if (!same || read_here || read_later || !unchanged) continue;
        step->in_place = true;
        place_[static_cast<size_t>(output)] = place_[static_cast<size_t>(step->residual)];
    }
}

void Program::finish() {
    if (!classes_ || state_ != State::kOpen) refuse("a plan has a classifier, and is finished once");
    for (const auto& shape : gate_shapes_) {
        if (!shape.first) refuse("a layer of the plan has no gate");
    }
    state_ = State::kClosed;
    share_places();
    // Borders: as wide as the widest window that reads the buffer, or one that shares its place.
    std::vector<uint32_t> pad(maps_.size(), 0);
    const auto widen = [&](int buffer, uint32_t kernel) {
        uint32_t& at = pad[static_cast<size_t>(place_[static_cast<size_t>(buffer)])];
        at = std::max(at, kernel / 2);
    };
    for (const Step& step : steps_) {
        if (const auto* convolve = std::get_if<ConvolveStep>(&step)) {
            widen(convolve->input, convolve->kernel);
            if (convolve->gate.layer != kNone) widen(convolve->gate.input, convolve->gate.kernel);
        }
    }
    for (size_t number = 0; number < maps_.size(); ++number) {
        maps_[number].pad = pad[static_cast<size_t>(place_[number])];
        if (bytes(maps_[number]) / 2 > std::numeric_limits<uint32_t>::max() / 2) refuse("a buffer is too large");
    }
    set_offsets();
    lay_out();
    find_bands();
    const uint32_t threads = pool_->size();
    slots_ = groups() ? std::min(kGroup * threads, kMostImages) : 1;
    group_arena_ = allocate(slots_ * slot_bytes_ + 256);
    for (uint32_t thread = 0; thread < threads; ++thread) {
        arenas_.push_back(allocate(private_bytes_ + 256));
        solo_.push_back(crew(1, arenas_[thread].get(), 1));
    }
    joint_ = crew(threads, arenas_[0].get(), slots_);
    state_ = State::kReady;
}

// Elements from a map's start to the first tap of each output position's window.
// With a ring, row y of the map lies at y modulo `ring`.
const uint32_t* Program::offsets(int buffer, uint32_t kernel, uint32_t stride, uint32_t height, uint32_t width,
                                 uint32_t ring) {
    const Map& map = maps_[static_cast<size_t>(buffer)];
    std::vector<uint32_t> table(size_t{height} * width);
    const uint32_t border = map.pad - kernel / 2;
    for (uint32_t y = 0; y < height; ++y) {
        for (uint32_t x = 0; x < width; ++x) {
            const uint32_t row = border + (ring ? y % ring : y) * stride;
            table[size_t{y} * width + x] = row * map.pitch() + (border + x * stride) * map.channels;
        }
    }
    for (const auto& other : tables_) {
        if (other == table) return other.data();
    }
    tables_.push_back(std::move(table));
    return tables_.back().data();
}

void Program::set_offsets() {
    for (size_t number = 0; number < steps_.size(); ++number) {
        auto* step = std::get_if<ConvolveStep>(&steps_[number]);
        if (!step) continue;
        const Map& out = maps_[static_cast<size_t>(step->raw != kNone ? step->raw : step->activated)];
        const uint32_t height = out.height, width = out.width;
        const Strides& by = strides_[number];
        step->offset = offsets(step->input, step->kernel, by.convolution, height, width);
        if (step->raw != kNone) step->raw_offset = offsets(step->raw, 1, 1, height, width);
        if (step->activated != kNone) step->activated_offset = offsets(step->activated, 1, 1, height, width);
        if (step->residual != kNone) step->residual_offset = offsets(step->residual, 1, by.residual, height, width);
        if (step->gate.layer != kNone) {
            step->gate.offset = offsets(step->gate.input, by.gate_kernel, by.convolution, height, width);
        }
    }
}

// Places in the arena: from its first write to its last read a buffer's memory is its own.
void Program::lay_out() {
    first_grouped_ = steps_.size();
    for (size_t number = 0; number < steps_.size() && first_grouped_ == steps_.size(); ++number) {
        const auto* step = std::get_if<ConvolveStep>(&steps_[number]);
        if (step && step->heavy) first_grouped_ = number;
    }
    const size_t count = maps_.size(), never = std::numeric_limits<size_t>::max();
    std::vector<size_t> first(count, never), last(count, 0);
    grouped_.assign(count, false);
    for (size_t number = 0; number < steps_.size(); ++number) {
        for (const auto* list : {&uses_[number].reads, &uses_[number].writes}) {
            for (const int buffer : *list) {
                const size_t at = static_cast<size_t>(place_[static_cast<size_t>(buffer)]);
                first[at] = std::min(first[at], number);
                last[at] = std::max(last[at], number);
                if (number >= first_grouped_) grouped_[at] = true;
            }
        }
    }
    offset_.assign(count, 0);
    std::vector<size_t> placed;
    for (size_t number = 0; number < count; ++number) {
        if (static_cast<size_t>(place_[number]) != number || first[number] == never) continue;
        const size_t size = bytes(maps_[number]) + 64;
        size_t at = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (const size_t other : placed) {
                const bool together = grouped_[other] == grouped_[number] && first[other] <= last[number] &&
                                      first[number] <= last[other];
                const size_t end = offset_[other] + bytes(maps_[other]) + 64;
                if (together && offset_[other] < at + size && at < end) {
                    at = end;
                    moved = true;
                }
            }
        }
        offset_[number] = at;
        placed.push_back(number);
        size_t& total = grouped_[number] ? slot_bytes_ : private_bytes_;
        total = std::max(total, at + size);
    }
    private_bytes_ = round_up(private_bytes_, 4096);
    // Not a power of two apart, so that the same place of several images falls into different cache sets.
    slot_bytes_ = slot_bytes_ ? round_up(slot_bytes_, 4096) + 320 : 0;
    for (size_t number = 0; number < count; ++number) {
        grouped_[number] = grouped_[static_cast<size_t>(place_[number])];
        offset_[number] = offset_[static_cast<size_t>(place_[number])];
    }
}

// A large map that only a pool reads is made and pooled in bands that the second-level cache holds.
void Program::find_bands() {
    banded_.resize(steps_.size());
    for (size_t number = 0; number + 1 < first_grouped_; ++number) {
        const auto* convolve = std::get_if<ConvolveStep>(&steps_[number]);
        const auto* pool = std::get_if<MaxPoolStep>(&steps_[number + 1]);
        if (!convolve || !pool || convolve->raw != pool->input || convolve->activated != kNone ||
            convolve->residual != kNone || convolve->gate.layer != kNone) {
            continue;
        }
        size_t readers = 0;
        for (const Use& use : uses_) readers += std::count(use.reads.begin(), use.reads.end(), convolve->raw);
        const Map& map = maps_[static_cast<size_t>(convolve->raw)];
        if (readers != 1 || map.pad || bytes(map) <= cache_bytes_ / 2) continue;
        const size_t held = cache_bytes_ / 2 / (bytes(map) / map.height);  // rows
        const uint32_t least = pool->kernel + 2 * pool->stride;
        const uint32_t ring = std::max(least, static_cast<uint32_t>(std::min<size_t>(held, map.height)));
        if (ring >= map.height) continue;
        ConvolveStep in_ring = *convolve;
        in_ring.raw_offset = offsets(convolve->raw, 1, 1, map.height, map.width, ring);
        banded_[number] = Banded{in_ring, *pool, ring - pool->kernel, ring};
    }
}

Program::Crew Program::crew(uint32_t size, char* arena, uint32_t slots) {
    Crew crew;
    crew.team = std::make_unique<Team>(size);
    crew.maps = maps_;
    crew.seconds.assign(steps_.size(), 0.0);
    for (size_t number = 0; number < maps_.size(); ++number) {
        crew.maps[number].base = (grouped_[number] ? group_arena_.get() : arena) + offset_[number];
        crew.maps[number].image_stride = grouped_[number] ? slot_bytes_ : 0;
    }
    size_t rows = 0, gates = 0, cells = 0, blocks = 0;
    for (size_t number = 0; number < steps_.size(); ++number) {
        const auto* step = std::get_if<ConvolveStep>(&steps_[number]);
        if (!step) continue;
        const size_t images = number >= first_grouped_ ? slots : 1;
        rows = std::max(rows, images * step->positions);
        gates = std::max(gates, images * step->positions * step->gate.groups);
        if (step->gate.layer != kNone && step->gate.per_cell) {
            cells = std::max(cells, round_up(step->gate.groups, kernels_.lanes));
        }
        const size_t k = round_up(size_t{step->runs} * round_up(step->run, kernels_.k_step), 64);
        const size_t gate_k = round_up(size_t{step->gate.runs} * round_up(step->gate.run, kernels_.k_step), 64);
        if (!kernels_.packed_bytes) continue;
        blocks = std::max(blocks, (std::max(k, gate_k) * kernels_.packed_bytes + 64) * kernels_.rows);
    }
    crew.gates = allocate(gates * sizeof(float) + 64);
    for (uint32_t index = 0; index < size; ++index) {
        Member member;
        member.kept = allocate((rows + 16) * sizeof(uint32_t));
        member.skipped = allocate((rows + 16) * sizeof(uint32_t));
        member.blocks = allocate(blocks * (kernels_.chunk + 1));
        member.cells = allocate(kernels_.chunk * kernels_.rows * cells * sizeof(float) + 64);
        member.work = Work{};
        member.work.layers = layers_;
        member.work.gates = reinterpret_cast<float*>(crew.gates.get());
        member.work.scratch = Scratch{reinterpret_cast<uint32_t*>(member.kept.get()),
                                      reinterpret_cast<uint32_t*>(member.skipped.get()), member.blocks.get(),
                                      blocks, reinterpret_cast<float*>(member.cells.get())};
        member.work.team = crew.team.get();
        member.work.member = index;
        crew.members.push_back(std::move(member));
    }
    return crew;
}

// ---- running

void Program::prepare(Crew& crew, const Batch& batch) {
    std::fill(crew.seconds.begin(), crew.seconds.end(), 0.0);
    for (Member& member : crew.members) {
        Work& work = member.work;
        work.maps = crew.maps.data();
        work.images = batch.images;
        work.pixels = batch.pixels;
        work.thresholds = batch.thresholds;
        work.norm_set = batch.norm_set;
        work.forced = batch.forced;
        work.masks = batch.masks;
        work.logits = batch.logits;
        work.kept = batch.kept;
        work.executed = batch.executed;
    }
}

void Program::run_one(const Step& step, Work& work) const {
    if (const auto* convolve = std::get_if<ConvolveStep>(&step)) {
        kernels_.convolve(*convolve, work);
    } else if (const auto* normalise = std::get_if<NormaliseStep>(&step)) {
        kernels_.normalise(*normalise, work);
    } else if (const auto* max_pool = std::get_if<MaxPoolStep>(&step)) {
        kernels_.max_pool(*max_pool, work);
    } else if (const auto* average_pool = std::get_if<AveragePoolStep>(&step)) {
        kernels_.average_pool(*average_pool, work);
    } else if (const auto* classify = std::get_if<ClassifyStep>(&step)) {
        kernels_.classify(*classify, work);
    }
}

// Steps [from, to) for images [first, first + count) of the batch, at places [slot, slot + count).
void Program::run_steps(Crew& crew, uint32_t member, size_t from, size_t to, uint32_t slot, uint32_t first,
                        uint32_t count) {
    using Clock = std::chrono::steady_clock;
    Work& work = crew.members[member].work;
    work.slot = slot;
    work.first = first;
    work.count = count;
    for (size_t number = from; number < to; ++number) {
        const auto before = timed_ ? Clock::now() : Clock::time_point{};
        const size_t step = number;
        if (const auto& both = banded_[number]) {
            kernels_.convolve_and_pool(both->convolve, both->pool, both->band, both->ring, work);
            ++number;
        } else {
            run_one(steps_[number], work);
        }
        if (timed_ && !member) crew.seconds[step] += std::chrono::duration<double>(Clock::now() - before).count();
    }
}

void Program::check_process() const {
    if (pool_->forked()) {
        throw std::runtime_error("this engine's threads stayed in the process that made it: make one after forking");
    }
}

void Program::run(const Batch& batch) {
    check_process();  // before the lock, which another thread may have held at the fork
    const std::lock_guard<std::mutex> lock(running_);
    const uint32_t threads = pool_->size();
    std::fill(batch.kept, batch.kept + size_t{batch.count} * layers_, int64_t{0});
    std::fill(batch.executed, batch.executed + batch.count, int64_t{0});
    timed_ = batch.seconds;
    for (Crew& crew : solo_) prepare(crew, batch);
    prepare(joint_, batch);
    for (uint32_t done = 0, taken; done < batch.count; done += taken) {
        taken = groups() ? std::min(slots_, batch.count - done) : batch.count;
        const uint32_t alone = taken / threads * threads;  // images that each have a thread to themselves
        std::atomic<uint32_t> next{0};
        pool_->run([&](uint32_t thread) {
            for (uint32_t image; (image = next.fetch_add(1)) < alone;) {
                run_steps(solo_[thread], 0, 0, first_grouped_, image, done + image, 1);
            }
            if (alone == taken && !groups()) return;
            joint_.team->wait();
            for (uint32_t image = alone; image < taken; ++image) {
                run_steps(joint_, thread, 0, first_grouped_, image, done + image, 1);
            }
            run_steps(joint_, thread, first_grouped_, steps_.size(), 0, done, taken);
        });
    }
    if (!batch.seconds) return;
    for (size_t number = 0; number < steps_.size(); ++number) {
        batch.seconds[number] = joint_.seconds[number];
        for (const Crew& crew : solo_) batch.seconds[number] += crew.seconds[number] / threads;
    }
}

const std::vector<int>& Program::reads(uint32_t number) const {
    if (number >= steps_.size()) refuse("there is no such step");
    if (std::holds_alternative<NormaliseStep>(steps_[number]) || std::holds_alternative<ClassifyStep>(steps_[number])) {
        refuse("only convolutions and pools run alone");
    }
    return uses_[number].reads;
}

std::vector<Program::Taken> Program::run_step(uint32_t number, const std::vector<std::pair<int, const float*>>& inputs,
                                              const Batch& batch) {
    check_process();
    const std::lock_guard<std::mutex> lock(running_);
    std::fill(batch.kept, batch.kept + size_t{batch.count} * layers_, int64_t{0});
    std::fill(batch.executed, batch.executed + batch.count, int64_t{0});
    prepare(joint_, batch);
    std::vector<Taken> taken;
    for (const int output : uses_[number].writes) {
        const Map& map = joint_.maps[static_cast<size_t>(output)];
        taken.push_back({output, map.pad, std::vector<float>(bytes(map) / element(map) * batch.count)});
    }
    const uint32_t group = number >= first_grouped_ ? slots_ : 1;
    for (uint32_t first = 0; first < batch.count; first += group) {
        const uint32_t count = std::min(group, batch.count - first);
        const auto each = [&](int buffer, auto use) {
            const Map& map = joint_.maps[static_cast<size_t>(buffer)];
            for (uint32_t image = 0; image < count; ++image) {
                char* base = map.base + image * map.image_stride;
                for (uint32_t y = 0; y < map.height + 2 * map.pad; ++y) {
                    for (uint32_t x = 0; x < map.width + 2 * map.pad; ++x) {
                        for (uint32_t c = 0; c < map.channels; ++c) {
                            use(map, base, (size_t{y} * (map.width + 2 * map.pad) + x) * map.channels + c, image, c, y, x);
                        }
                    }
                }
            }
        };
        for (const int output : uses_[number].writes) {
            each(output, [&](const Map& map, char* base, size_t at, uint32_t, uint32_t, uint32_t, uint32_t) {
                put(base, at, element(map), std::numeric_limits<float>::quiet_NaN());
            });
        }
        for (const auto& [buffer, values] : inputs) {
            const float* source = values;
            each(buffer, [&](const Map& map, char* base, size_t at, uint32_t image, uint32_t c, uint32_t y, uint32_t x) {
                const bool inside = y >= map.pad && y < map.pad + map.height && x >= map.pad && x < map.pad + map.width;
                const size_t place = ((size_t{first + image} * map.channels + c) * map.height + (y - map.pad)) * map.width +
                                     (x - map.pad);
                put(base, at, element(map), inside ? source[place] : 0.0f);
            });
        }
        pool_->run([&](uint32_t thread) {
            Work& work = joint_.members[thread].work;
            work.slot = 0;
            work.first = first;
            work.count = count;
            run_one(steps_[number], work);
        });
        for (Taken& output : taken) {
            each(output.buffer, [&](const Map& map, char* base, size_t at, uint32_t image, uint32_t c, uint32_t y, uint32_t x) {
                const size_t rows = map.height + 2 * map.pad, columns = map.width + 2 * map.pad;
                output.values[((size_t{first + image} * map.channels + c) * rows + y) * columns + x] =
                    get(base, at, element(map));
            });
        }
    }
    return taken;
}

}  // namespace lccl
