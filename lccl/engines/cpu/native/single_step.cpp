// One step alone, for tests: on given values, its outputs NaN before it.
#include <algorithm>
#include <limits>

#include "elements.hpp"
#include "program.hpp"

namespace lccl {

namespace {

char* image_of(const Map& map, uint32_t image) { return map.base + image * map.image_stride; }
uint32_t rows_of(const Map& map) { return map.height + 2 * map.pad; }
uint32_t columns_of(const Map& map) { return map.width + 2 * map.pad; }
size_t elements_of(const Map& map) { return size_t{rows_of(map)} * columns_of(map) * map.channels; }

// Calls use(channel, y, x, number of the element) for everything in a map, its border included.
template <class Use>
void each_element(const Map& map, Use use) {
    size_t number = 0;
    for (uint32_t y = 0; y < rows_of(map); ++y) {
        for (uint32_t x = 0; x < columns_of(map); ++x) {
            for (uint32_t c = 0; c < map.channels; ++c) use(c, y, x, number++);
        }
    }
}

}  // namespace

void Program::write_nan(const Map& map, uint32_t image) const {
    for (size_t number = 0; number < elements_of(map); ++number) {
        put(image_of(map, image), number, element(map), std::numeric_limits<float>::quiet_NaN());
    }
}

// From [channels, height, width].
void Program::write_values(const Map& map, uint32_t image, const float* values) const {
    each_element(map, [&](uint32_t c, uint32_t y, uint32_t x, size_t number) {
        const bool inside = y >= map.pad && y < map.pad + map.height && x >= map.pad && x < map.pad + map.width;
        const size_t source = (size_t{c} * map.height + (y - map.pad)) * map.width + (x - map.pad);
        put(image_of(map, image), number, element(map), inside ? values[source] : 0.0f);
    });
}

// To [channels, height + 2 pad, width + 2 pad].
void Program::read_values(const Map& map, uint32_t image, float* values) const {
    each_element(map, [&](uint32_t c, uint32_t y, uint32_t x, size_t number) {
        values[(size_t{c} * rows_of(map) + y) * columns_of(map) + x] = get(image_of(map, image), number, element(map));
    });
}

const std::vector<int>& Program::reads(uint32_t number) const {
    if (number >= steps_.size()) refuse("there is no such step");
    const Step& step = steps_[number];
    if (std::holds_alternative<NormaliseStep>(step) || std::holds_alternative<ExitStep>(step) ||
        std::holds_alternative<ClassifyStep>(step)) {
        refuse("only convolutions and pools run alone");
    }
    return uses_[number].reads;
}

std::vector<Program::Taken> Program::run_step(uint32_t number, const std::vector<std::pair<int, const float*>>& inputs,
                                              const Batch& batch) {
    check_process();
    Stream& stream = whole();
    const std::lock_guard<std::mutex> lock(stream.running);
    clear_counts(batch);
    prepare(stream.joint, batch);
    const auto map_of = [&](int buffer) -> const Map& { return stream.joint.maps[static_cast<size_t>(buffer)]; };
    std::vector<Taken> taken;
    for (const int output : uses_[number].writes) {
        const Map& map = map_of(output);
        taken.push_back({output, map.pad, std::vector<float>(elements_of(map) * batch.count)});
    }
    const uint32_t group = number >= first_grouped_ ? stream.slots : 1;
    for (uint32_t first = 0; first < batch.count; first += group) {
        const uint32_t count = std::min(group, batch.count - first);
        for (uint32_t image = 0; image < count; ++image) {
            for (const int output : uses_[number].writes) write_nan(map_of(output), image);
            for (const auto& [input, values] : inputs) {
                const Map& map = map_of(input);
                const size_t size = size_t{map.channels} * map.height * map.width;
                write_values(map, image, values + (first + image) * size);
            }
        }
        stream.pool->run([&](uint32_t thread) {
            Work& work = stream.joint.members[thread].work;
            work.count = 0;
            for (uint32_t image = 0; image < count; ++image) work.active[work.count++] = {image, first + image};
            run_one(steps_[number], work);
        });
        for (Taken& output : taken) {
            const Map& map = map_of(output.buffer);
            for (uint32_t image = 0; image < count; ++image) {
                read_values(map, image, output.values.data() + (first + image) * elements_of(map));
            }
        }
    }
    return taken;
}

}  // namespace lccl
