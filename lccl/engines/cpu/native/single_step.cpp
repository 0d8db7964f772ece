#include "single_step.hpp"

#include <algorithm>
#include <limits>

#include "elements.hpp"

namespace lccl {

namespace {

size_t elements_of(const Map& map) { return size_t{map.height + 2 * map.pad} * map.pitch(); }

char* image_of(const Map& map, uint32_t image) { return map.base + image * map.image_stride; }

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
    const bool integers = program.kernels->quantised();  // which have no NaN
    const float poison = integers ? 165.0f : std::numeric_limits<float>::quiet_NaN();
    std::vector<Values> outputs;
    for (const int buffer : program.uses[number].writes) {
        outputs.push_back({buffer, std::vector<float>(elements_of(map_of(buffer)) * batch.count)});
    }
    const uint32_t group = number >= program.first_grouped ? stream.slots : 1;
    for (uint32_t first = 0; first < batch.count; first += group) {
        const uint32_t count = std::min(group, batch.count - first);
        for (uint32_t image = 0; image < count; ++image) {
            for (const Values& output : outputs) {
                const Map& map = map_of(output.buffer);
                for (size_t n = 0; n < elements_of(map); ++n) {
                    put(image_of(map, image), n, program.element(map), poison);
                }
            }
            for (const auto& [input, values] : inputs) {
                const Map& map = map_of(input);
                const float* const source = values + (first + image) * elements_of(map);
                for (size_t n = 0; n < elements_of(map); ++n) {
                    put(image_of(map, image), n, program.element(map), source[n]);
                }
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
                float* const target = output.values.data() + (first + image) * elements_of(map);
                for (size_t n = 0; n < elements_of(map); ++n) {
                    target[n] = get(image_of(map, image), n, program.element(map));
                }
            }
        }
    }
    return outputs;
}

}  // namespace lccl
