#include "single_step.hpp"

#include <algorithm>
#include <limits>

#include "elements.hpp"

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

void write_nan(const Map& map, size_t element, uint32_t image) {
    for (size_t number = 0; number < elements_of(map); ++number) {
        put(image_of(map, image), number, element, std::numeric_limits<float>::quiet_NaN());
    }
}

// From [channels, height, width].
void write_values(const Map& map, size_t element, uint32_t image, const float* values) {
    each_element(map, [&](uint32_t c, uint32_t y, uint32_t x, size_t number) {
        const bool inside = y >= map.pad && y < map.pad + map.height && x >= map.pad && x < map.pad + map.width;
        const size_t source = (size_t{c} * map.height + (y - map.pad)) * map.width + (x - map.pad);
        put(image_of(map, image), number, element, inside ? values[source] : 0.0f);
    });
}

// To [channels, height + 2 pad, width + 2 pad].
void read_values(const Map& map, size_t element, uint32_t image, float* values) {
    each_element(map, [&](uint32_t c, uint32_t y, uint32_t x, size_t number) {
        values[(size_t{c} * rows_of(map) + y) * columns_of(map) + x] = get(image_of(map, image), number, element);
    });
}

}  // namespace

const std::vector<int>& reads_of(const Program& program, uint32_t number) {
    if (number >= program.steps.size()) refuse("there is no such step");
    const Step& step = program.steps[number];
    if (std::holds_alternative<NormaliseStep>(step) || std::holds_alternative<ExitStep>(step) ||
        std::holds_alternative<ClassifyStep>(step)) {
        refuse("only convolutions and pools run alone");
    }
    return program.uses[number].reads;
}

std::vector<Values> run_single_step(Executor& executor, uint32_t number,
                                    const std::vector<std::pair<int, const float*>>& inputs, const Batch& batch) {
    executor.check_process();
    const Program& program = executor.program();
    Stream& stream = executor.whole();
    const std::lock_guard<std::mutex> lock(stream.running);
    Workspace& workspace = *stream.joint;
    clear(program, batch);
    workspace.prepare(batch);
    const auto map_of = [&](int buffer) -> const Map& { return workspace.maps[static_cast<size_t>(buffer)]; };
    std::vector<Values> outputs;
    for (const int buffer : program.uses[number].writes) {
        outputs.push_back({buffer, std::vector<float>(elements_of(map_of(buffer)) * batch.count)});
    }
    const uint32_t group = number >= program.first_grouped ? stream.slots : 1;
    for (uint32_t first = 0; first < batch.count; first += group) {
        const uint32_t count = std::min(group, batch.count - first);
        for (uint32_t image = 0; image < count; ++image) {
            for (const Values& output : outputs) {
                write_nan(map_of(output.buffer), program.element(map_of(output.buffer)), image);
            }
            for (const auto& [input, values] : inputs) {
                const Map& map = map_of(input);
                const size_t size = size_t{map.channels} * map.height * map.width;
                write_values(map, program.element(map), image, values + (first + image) * size);
            }
        }
        stream.pool.run([&](uint32_t thread) {
            Work& work = workspace.workers[thread].work;
            work.count = 0;
            for (uint32_t image = 0; image < count; ++image) work.active[work.count++] = {image, first + image};
            run_step(program, program.steps[number], work);
        });
        for (Values& output : outputs) {
            const Map& map = map_of(output.buffer);
            for (uint32_t image = 0; image < count; ++image) {
                float* const values = output.values.data() + (first + image) * elements_of(map);
                read_values(map, program.element(map), image, values);
            }
        }
    }
    return outputs;
}

}  // namespace lccl
