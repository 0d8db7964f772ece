// Where a plan's buffers lie: which share memory, how wide their borders are, and what is made in bands.
#include <algorithm>
#include <limits>

#include "program.hpp"
#include "rounding.hpp"

namespace lccl {

void Program::finish() {
    if (!classified_ || state_ != State::kOpen) refuse("a plan has a classifier, and is finished once");
    for (const auto& shape : gate_shapes_) {
        if (!shape.first) refuse("a layer of the plan has no gate");
    }
    for (const bool added : exits_) {
        if (!added) refuse("an exit of the plan has no step");
    }
    state_ = State::kClosed;
    share_places();
    set_borders();
    set_offsets();
    find_first_grouped();
    lay_out();
    find_bands();
    for (const auto& stream : streams_) furnish(*stream);
    state_ = State::kReady;
}

size_t Program::bytes(const Map& map) const {
    return round_up(size_t{map.height + 2 * map.pad} * (map.width + 2 * map.pad) * map.channels * element(map), 64);
}

// ---- sharing memory

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
        const int output = step->raw != kNone ? step->raw : step->activated;
        const Map &residual = buffer(step->residual), &map = buffer(output);
        const bool same = residual.channels == map.channels && residual.height == map.height &&
                          residual.width == map.width && residual.single == map.single;
        const bool read_here =
            step->residual == step->input || (step->gate.layer != kNone && step->residual == step->gate.input);
        bool read_later = false;
        for (size_t later = number + 1; later < steps_.size(); ++later) {
            for (const int read : uses_[later].reads) read_later |= read == step->residual;
        }
        const bool unchanged = step->raw != kNone || (!step->activated_scale && never_negative(step->residual, number));
        if (!same || read_here || read_later || !unchanged) continue;
        step->in_place = true;
        place_[static_cast<size_t>(output)] = place_[static_cast<size_t>(step->residual)];
    }
}

// ---- borders and offsets

// As wide as the widest window that reads the buffer, or one that shares its place.
void Program::set_borders() {
    std::vector<uint32_t> pad(maps_.size(), 0);
    const auto widen = [&](int buffer, uint32_t kernel) {
        uint32_t& border = pad[place_of(buffer)];
        border = std::max(border, kernel / 2);
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
}

// Elements from a map's start to the first tap of each output position's window.
// With a ring, row y of the map lies at y modulo `ring`.
const uint32_t* Program::offsets(int number, uint32_t kernel, uint32_t stride, uint32_t height, uint32_t width,
                                 uint32_t ring) {
    const Map& map = buffer(number);
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
        const Map& out = buffer(step->raw != kNone ? step->raw : step->activated);
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

// ---- places in an arena

void Program::find_first_grouped() {
    const auto heavy = [](const Step& step) {
        const auto* convolve = std::get_if<ConvolveStep>(&step);
        return convolve && convolve->heavy;
    };
    first_grouped_ = static_cast<size_t>(std::find_if(steps_.begin(), steps_.end(), heavy) - steps_.begin());
}

// From its first use to its last a place's memory is its own; `first` beyond all steps stands for no use. Says on the
// way which places are held for every image of a group.
std::vector<Program::Lifetime> Program::find_lifetimes() {
    std::vector<Lifetime> lifetimes(maps_.size(), {steps_.size(), 0});
    grouped_.assign(maps_.size(), false);
    for (size_t number = 0; number < steps_.size(); ++number) {
        for (const auto* list : {&uses_[number].reads, &uses_[number].writes}) {
            for (const int buffer : *list) {
                const size_t place = place_of(buffer);
                lifetimes[place].first = std::min(lifetimes[place].first, number);
                lifetimes[place].last = number;
                if (number >= first_grouped_) grouped_[place] = true;
            }
        }
    }
    return lifetimes;
}

void Program::lay_out() {
    const std::vector<Lifetime> lifetimes = find_lifetimes();
    offset_.assign(maps_.size(), 0);
    std::vector<size_t> placed;
    for (size_t number = 0; number < maps_.size(); ++number) {
        if (static_cast<size_t>(place_[number]) != number || lifetimes[number].first == steps_.size()) continue;
        const size_t size = bytes(maps_[number]) + 64;
        size_t at = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (const size_t other : placed) {
                const bool together =
                    grouped_[other] == grouped_[number] && lifetimes[other].overlaps(lifetimes[number]);
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
    for (size_t number = 0; number < maps_.size(); ++number) {
        grouped_[number] = grouped_[static_cast<size_t>(place_[number])];
        offset_[number] = offset_[static_cast<size_t>(place_[number])];
    }
}

// ---- bands

// Whether nothing but the pool reads what the convolution writes, and nothing else is done on the way.
bool Program::pools_alone(const ConvolveStep& convolve, const MaxPoolStep& pool) const {
    if (convolve.raw != pool.input || convolve.activated != kNone || convolve.residual != kNone ||
        convolve.gate.layer != kNone) {
        return false;
    }
    ptrdiff_t readers = 0;
    for (const Use& use : uses_) readers += std::count(use.reads.begin(), use.reads.end(), convolve.raw);
    return readers == 1;
}

// A large map that only a pool reads is made and pooled in bands that the second-level cache holds.
void Program::find_bands() {
    banded_.resize(steps_.size());
    for (size_t number = 0; number + 1 < first_grouped_; ++number) {
        const auto* convolve = std::get_if<ConvolveStep>(&steps_[number]);
        const auto* pool = std::get_if<MaxPoolStep>(&steps_[number + 1]);
        if (!convolve || !pool || !pools_alone(*convolve, *pool)) continue;
        const Map& map = buffer(convolve->raw);
        if (map.pad || bytes(map) <= cache_bytes_ / 2) continue;
        const size_t held = cache_bytes_ / 2 / (bytes(map) / map.height);  // rows
        const uint32_t least = pool->kernel + 2 * pool->stride;
        const uint32_t ring = std::max(least, static_cast<uint32_t>(std::min<size_t>(held, map.height)));
        if (ring >= map.height) continue;
        ConvolveStep in_ring = *convolve;
        in_ring.raw_offset = offsets(convolve->raw, 1, 1, map.height, map.width, ring);
        banded_[number] = Banded{in_ring, *pool, ring - pool->kernel, ring};
    }
}

}  // namespace lccl
