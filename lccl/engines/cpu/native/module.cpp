// The Python module: makes programs of plans, and hands batches to them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>

#include "arrays.hpp"
#include "cpu.hpp"
#include "plan.hpp"
#include "single_step.hpp"

using namespace nanobind::literals;

namespace lccl {
namespace {

using Images = nb::ndarray<nb::ro, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using ForcedMasks = std::optional<std::vector<Input<uint8_t, 4>>>;
using Masks = std::optional<std::vector<Result<uint8_t, 4>>>;
using Values4 = nb::ndarray<nb::numpy, float, nb::ndim<4>>;

// A batch whose arrays fit the program, and the pointers to its masks.
struct Checked {
    Checked(const Program& program, size_t count, const Input<float, 2>& thresholds, const Result<int64_t, 2>& kept,
            const Result<int64_t, 1>& executed, const ForcedMasks& forced_masks, const Masks& written_masks) {
        const size_t layers = program.layers;
        if (!count || count > (1u << 24)) refuse("a batch has 1 to 2^24 images");
        check(thresholds, {count, layers}, sizeof(float), "thresholds");
        check(kept, {count, layers}, sizeof(int64_t), "kept");
        check(executed, {count}, sizeof(int64_t), "executed");
        const auto each_layer = [&](const auto& arrays, const char* name, auto& pointers) {
            if (arrays.size() != layers) refuse(std::string(name) + " must hold one array per layer");
            for (size_t layer = 0; layer < layers; ++layer) {
                const auto [maps, height, width] = program.gates[layer];
                check(arrays[layer], {count, maps, height, width}, 1, name);
                pointers.push_back(arrays[layer].data());
            }
        };
        if (forced_masks) each_layer(*forced_masks, "forced_masks", forced);
        if (written_masks) each_layer(*written_masks, "masks", masks);
        batch.count = static_cast<uint32_t>(count);
        batch.layers = program.layers;
        batch.exits = program.exits;
        batch.thresholds = thresholds.data();
        batch.forced = forced_masks ? forced.data() : nullptr;
        batch.masks = written_masks ? masks.data() : nullptr;
        batch.kept = kept.data();
        batch.executed = executed.data();
    }

    Batch batch{};
    std::vector<const uint8_t*> forced;
    std::vector<uint8_t*> masks;
};

void run(Executor& executor, const Images& images, const Input<float, 2>& thresholds,
         const Input<float, 2>& exit_confidence, const Result<float, 2>& logits, const Result<int64_t, 2>& kept,
         const Result<int64_t, 1>& executed, const Result<int64_t, 1>& exit_index, const ForcedMasks& forced,
         const Masks& masks, const std::optional<Result<double, 1>>& seconds, bool sharing) {
    const Program& program = executor.program();
    const Map& image = program.image();
    check_aligned(images, 1, "images");
    const size_t count = images.shape(0);
    const bool pixels = images.dtype() == nb::dtype<uint8_t>();
    if (!pixels && images.dtype() != nb::dtype<float>()) throw nb::type_error("images must be uint8 or float32");
    check(images, {count, image.height, image.width, image.channels}, pixels ? 1 : sizeof(float), "images");
    check(exit_confidence, {count, program.exits}, sizeof(float), "exit_confidence");
    check(logits, {count, program.classes}, sizeof(float), "logits");
    check(exit_index, {count}, sizeof(int64_t), "exit_index");
    if (seconds) check(*seconds, {program.steps.size()}, sizeof(double), "seconds");
    Checked checked(program, count, thresholds, kept, executed, forced, masks);
    Batch& batch = checked.batch;
    batch.images = images.data();
    batch.pixels = pixels;
    batch.exit_confidence = exit_confidence.data();
    batch.logits = logits.data();
    batch.exit_index = exit_index.data();
    batch.seconds = seconds ? seconds->data() : nullptr;
    const nb::gil_scoped_release released;
    executor.run(batch, sharing);
}

std::map<std::string, Values4> run_step_alone(Executor& executor, uint32_t step,
                                              const std::map<std::string, Input<float, 4>>& inputs,
                                              const Input<float, 2>& thresholds, const Result<int64_t, 2>& kept,
                                              const Result<int64_t, 1>& executed, const ForcedMasks& forced,
                                              const Masks& masks) {
    const Program& program = executor.program();
    check_aligned(thresholds, sizeof(float), "thresholds");
    const size_t count = thresholds.shape(0);
    const std::vector<int>& reads = reads_of(program, step);
    const auto shape_of = [&](const Map& map) -> std::array<size_t, 4> {
        return {count, map.height + 2 * map.pad, map.width + 2 * map.pad, map.channels};
    };
    std::vector<std::pair<int, const float*>> values;
    for (const auto& [name, array] : inputs) {
        const auto reads_it = [&, &name = name](int buffer) { return program.buffer(buffer).name == name; };
        const auto buffer = std::find_if(reads.begin(), reads.end(), reads_it);
        if (buffer == reads.end()) refuse("a step's input must be a buffer that it reads");
        const auto [images, height, width, channels] = shape_of(program.map(*buffer));
        check(array, {images, height, width, channels}, sizeof(float), "a step's input");
        values.emplace_back(*buffer, array.data());
    }
    const Checked checked(program, count, thresholds, kept, executed, forced, masks);
    std::map<std::string, Values4> outputs;
    for (Values& output : run_single_step(executor, step, values, checked.batch)) {
        auto* held = new std::vector<float>(std::move(output.values));
        const nb::capsule owner(held, [](void* pointer) noexcept { delete static_cast<std::vector<float>*>(pointer); });
        const auto shape = shape_of(program.map(output.buffer));
        outputs.emplace(program.buffer(output.buffer).name, Values4(held->data(), 4, shape.data(), owner));
    }
    return outputs;
}

void make(Executor* self, nb::handle plan, nb::handle memory, const std::string& instruction_set,
          const std::string& precision, uint32_t threads, uint32_t streams, size_t cache_bytes) {
    if (!threads || threads > 1024) refuse("threads must lie in 1..1024");
    std::unique_ptr<const Program> program = read_plan(plan, memory, choose(instruction_set, precision), cache_bytes);
    const nb::gil_scoped_release released;
    new (self) Executor(std::move(program), threads, streams);
}

std::vector<std::pair<std::string, std::string>> instruction_sets() {
    std::vector<std::pair<std::string, std::string>> out;
    for (const Kernels* kernels : runnable()) out.emplace_back(kernels->name, name_of(kernels->precision));
    return out;
}

}  // namespace
}  // namespace lccl

NB_MODULE(_native, module) {
    using namespace lccl;
    module.doc() = "The native CPU engine; see lccl.engines.cpu.engine.";
    module.def("instruction_sets", &instruction_sets, "What this machine can run: (name, precision), fastest first.");
    module.def("second_level_cache", &second_level_cache, "Bytes of one core's second-level cache.");
    nb::class_<Executor>(module, "Executor")
        .def("__init__", &make, "plan"_a, "memory"_a, "instruction_set"_a, "precision"_a, "threads"_a, "streams"_a,
             "cache_bytes"_a)
        .def("run", &run, nb::arg("images").noconvert(), nb::arg("thresholds").noconvert(),
             nb::arg("exit_confidence").noconvert(), nb::arg("logits").noconvert(), nb::arg("kept").noconvert(),
             nb::arg("executed").noconvert(), nb::arg("exit_index").noconvert(), nb::arg("forced").noconvert().none(),
             nb::arg("masks").noconvert().none(), nb::arg("seconds").noconvert().none(), "sharing"_a = false)
        .def("run_step", &run_step_alone, "step"_a, nb::arg("inputs").noconvert(), nb::arg("thresholds").noconvert(),
             nb::arg("kept").noconvert(), nb::arg("executed").noconvert(), nb::arg("forced").noconvert().none(),
             nb::arg("masks").noconvert().none())
        .def_prop_ro("instruction_set", [](const Executor& self) { return self.program().kernels->name; })
        .def_prop_ro("groups", [](const Executor& self) { return self.program().groups(); })
        .def_prop_ro("threads", &Executor::threads)
        .def_prop_ro("streams", &Executor::streams);
}
