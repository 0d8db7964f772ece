// The Python module: every array is checked here before its pointer is taken.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>

#include "cpu.hpp"
#include "program.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace lccl {
namespace {

template <class Scalar, int Dimensions>
using Input = nb::ndarray<const Scalar, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
template <class Scalar, int Dimensions>
using Result = nb::ndarray<Scalar, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
using Images = nb::ndarray<nb::ro, nb::ndim<4>, nb::c_contig, nb::device::cpu>;

constexpr size_t kLargest = size_t{1} << 30;

template <class Array>
void check_there(const Array& array, const char* name) {
    if (!array.is_valid()) throw std::invalid_argument(std::string(name) + " must be an array, not None");
}

template <class Array>
void check(const Array& array, std::initializer_list<size_t> shape, size_t alignment, const char* name) {
    check_there(array, name);
    size_t axis = 0;
    bool fits = true;
    for (const size_t wanted : shape) fits &= array.shape(axis++) == wanted;
    if (!fits) {
        std::string text;
        for (const size_t wanted : shape) text += (text.empty() ? "" : ", ") + std::to_string(wanted);
        throw std::invalid_argument(std::string(name) + " must be [" + text + "]");
    }
    if (reinterpret_cast<uintptr_t>(array.data()) % alignment) {
        throw std::invalid_argument(std::string(name) + " is not aligned to its type");
    }
}

template <class Array>
void check_aligned(const Array& array, const char* name) {
    check_there(array, name);
    if (reinterpret_cast<uintptr_t>(array.data()) % sizeof(float)) {
        throw std::invalid_argument(std::string(name) + " is not aligned to its type");
    }
}

using Weights = Input<float, 4>;
using Table = std::optional<Input<float, 2>>;

Filter filter_of(const Weights& weights, const char* name) {
    check_aligned(weights, name);
    if (weights.shape(2) != weights.shape(3) || !weights.size() || weights.size() > kLargest) {
        throw std::invalid_argument(std::string(name) + " must be [out, in, kernel, kernel], none of them 0");
    }
    return Filter{weights.data(), static_cast<uint32_t>(weights.shape(0)), static_cast<uint32_t>(weights.shape(1)),
                  static_cast<uint32_t>(weights.shape(2))};
}

template <class Array>
std::vector<float> values_of(const Array& array, const char* name) {
    check_aligned(array, name);
    return std::vector<float>(array.data(), array.data() + array.size());
}

// scale and shift, [sets, channels] each.
Affine affine_of(const Program& program, size_t channels, const Table& scale, const Table& shift) {
    if (scale.has_value() != shift.has_value()) throw std::invalid_argument("a scale comes with a shift");
    if (!scale) return {};
    check(*scale, {program.sets(), channels}, sizeof(float), "scale");
    check(*shift, {program.sets(), channels}, sizeof(float), "shift");
    return {values_of(*scale, "scale"), values_of(*shift, "shift")};
}

using Gate = std::tuple<int, int, Weights, Input<float, 2>, Input<float, 2>>;  // layer, input, weight, scale, shift

void add_convolution(Program& program, int input, const Weights& weight, uint32_t stride, const Table& scale,
                     const Table& shift, bool relu, const std::optional<Gate>& gate, int residual,
                     uint32_t residual_stride, int raw, int activated, const Table& activated_scale,
                     const Table& activated_shift) {
    std::optional<GateLayout> layout;
    if (gate) {
        const auto& [layer, source, filter, gate_scale, gate_shift] = *gate;
        const Filter gate_filter = filter_of(filter, "a gate's weight");
        layout = GateLayout{layer, source, gate_filter,
                            affine_of(program, gate_filter.out, Table(gate_scale), Table(gate_shift))};
    }
    const Filter filter = filter_of(weight, "weight");
    program.add_convolution({input, filter, stride, affine_of(program, filter.out, scale, shift), relu,
                             layout ? &*layout : nullptr, residual, residual_stride, raw, activated,
                             affine_of(program, filter.out, activated_scale, activated_shift)});
}

Filter matrix_of(const Input<float, 2>& weight) {
    check_aligned(weight, "weight");
    if (!weight.size() || weight.size() > kLargest) throw std::invalid_argument("weight must be [classes, channels]");
    return {weight.data(), static_cast<uint32_t>(weight.shape(0)), static_cast<uint32_t>(weight.shape(1)), 1};
}

void add_exit(Program& program, uint32_t exit, int input, const Weights& hidden_weight,
              const Input<float, 1>& hidden_bias, const Input<float, 2>& weight, const Input<float, 1>& bias) {
    program.add_exit(exit, input, filter_of(hidden_weight, "hidden_weight"), values_of(hidden_bias, "hidden_bias"),
                     matrix_of(weight), values_of(bias, "bias"));
}

void add_classifier(Program& program, int input, const Input<float, 2>& weight, const Input<float, 1>& bias) {
    program.add_classifier(input, matrix_of(weight), values_of(bias, "bias"));
}

// A batch whose arrays fit the program, and the pointers to its masks.
struct Checked {
    Batch batch{};
    std::vector<const uint8_t*> forced;
    std::vector<uint8_t*> masks;
};

void check_controls(const Program& program, Checked& checked, size_t count, const Input<float, 2>& thresholds,
                    const Input<int64_t, 1>& norm_set, const Result<int64_t, 2>& kept,
                    const Result<int64_t, 1>& executed, const std::optional<std::vector<Input<uint8_t, 3>>>& forced,
                    const std::optional<std::vector<Result<uint8_t, 3>>>& masks) {
    const size_t layers = program.layers();
    if (!count || count > (1u << 24)) throw std::invalid_argument("a batch has 1 to 2^24 images");
    check(thresholds, {count, layers}, sizeof(float), "thresholds");
    check(norm_set, {count}, sizeof(int64_t), "norm_set");
    check(kept, {count, layers}, sizeof(int64_t), "kept");
    check(executed, {count}, sizeof(int64_t), "executed");
    for (size_t image = 0; image < count; ++image) {
        if (norm_set.data()[image] < 0 || norm_set.data()[image] >= program.sets()) {
            throw std::invalid_argument("norm_set is out of range");
        }
    }
    const auto each_layer = [&](const auto& arrays, const char* name, auto& pointers) {
        if (arrays.size() != layers) throw std::invalid_argument(std::string(name) + " must hold one array per layer");
        for (size_t layer = 0; layer < layers; ++layer) {
            const auto [maps, positions] = program.gates()[layer];
            check(arrays[layer], {count, maps, positions}, 1, name);
            pointers.push_back(arrays[layer].data());
        }
    };
    if (forced) each_layer(*forced, "forced_masks", checked.forced);
    if (masks) each_layer(*masks, "masks", checked.masks);
    Batch& batch = checked.batch;
    batch.count = static_cast<uint32_t>(count);
    batch.thresholds = thresholds.data();
    batch.norm_set = norm_set.data();
    batch.forced = forced ? checked.forced.data() : nullptr;
    batch.masks = masks ? checked.masks.data() : nullptr;
    batch.kept = kept.data();
    batch.executed = executed.data();
}

void run(Program& program, const Images& images, const Input<float, 2>& thresholds, const Input<int64_t, 1>& norm_set,
         const Input<float, 2>& exit_confidence, const Result<float, 2>& logits, const Result<int64_t, 2>& kept,
         const Result<int64_t, 1>& executed, const Result<int64_t, 1>& exit,
         const std::optional<std::vector<Input<uint8_t, 3>>>& forced,
         const std::optional<std::vector<Result<uint8_t, 3>>>& masks, const std::optional<Result<double, 1>>& seconds,
         bool sharing) {
    if (!program.ready()) throw std::invalid_argument("the plan is not finished");
    Checked checked;
    check_there(images, "images");
    const size_t count = images.shape(0);
    const Map& image = program.image();
    const bool pixels = images.dtype() == nb::dtype<uint8_t>();
    if (!pixels && images.dtype() != nb::dtype<float>()) throw nb::type_error("images must be uint8 or float32");
    check(images, {count, image.height, image.width, image.channels}, pixels ? 1 : sizeof(float), "images");
    check(exit_confidence, {count, program.exits()}, sizeof(float), "exit_confidence");
    check(logits, {count, program.classes()}, sizeof(float), "logits");
    check(exit, {count}, sizeof(int64_t), "exit");
    if (seconds) check(*seconds, {program.steps()}, sizeof(double), "seconds");
    check_controls(program, checked, count, thresholds, norm_set, kept, executed, forced, masks);
    checked.batch.images = images.data();
    checked.batch.pixels = pixels;
    checked.batch.exit_confidence = exit_confidence.data();
    checked.batch.logits = logits.data();
    checked.batch.exit = exit.data();
    checked.batch.seconds = seconds ? seconds->data() : nullptr;
    const nb::gil_scoped_release released;
    program.run(checked.batch, sharing);
}

using Values = nb::ndarray<const float, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Taken = nb::ndarray<nb::numpy, float, nb::ndim<4>>;

std::vector<std::tuple<int, uint32_t, Taken>> run_step(
    Program& program, uint32_t step, const std::vector<std::pair<int, Values>>& inputs,
    const Input<float, 2>& thresholds, const Input<int64_t, 1>& norm_set, const Result<int64_t, 2>& kept,
    const Result<int64_t, 1>& executed, const std::optional<std::vector<Input<uint8_t, 3>>>& forced,
    const std::optional<std::vector<Result<uint8_t, 3>>>& masks) {
    if (!program.ready()) throw std::invalid_argument("the plan is not finished");
    Checked checked;
    check_there(norm_set, "norm_set");
    const size_t count = norm_set.shape(0);
    const std::vector<int>& reads = program.reads(step);
    std::vector<std::pair<int, const float*>> values;
    for (const auto& [buffer, array] : inputs) {
        if (std::find(reads.begin(), reads.end(), buffer) == reads.end()) {
            throw std::invalid_argument("a step's input must be a buffer that it reads");
        }
        const Map& map = program.buffer(buffer);
        check(array, {count, map.channels, map.height, map.width}, sizeof(float), "a step's input");
        values.emplace_back(buffer, array.data());
    }
    check_controls(program, checked, count, thresholds, norm_set, kept, executed, forced, masks);
    std::vector<std::tuple<int, uint32_t, Taken>> out;
    for (auto& taken : program.run_step(step, values, checked.batch)) {
        const Map& map = program.buffer(taken.buffer);
        auto* held = new std::vector<float>(std::move(taken.values));
        const nb::capsule owner(held, [](void* pointer) noexcept { delete static_cast<std::vector<float>*>(pointer); });
        const size_t height = map.height + 2 * taken.pad, width = map.width + 2 * taken.pad;
        out.emplace_back(taken.buffer, taken.pad, Taken(held->data(), {count, map.channels, height, width}, owner));
    }
    return out;
}

std::vector<std::pair<std::string, std::string>> instruction_sets() {
    std::vector<std::pair<std::string, std::string>> out;
    for (const Kernels* kernels : runnable()) out.emplace_back(kernels->name, kernels->bf16 ? "bf16" : "fp32");
    return out;
}

}  // namespace
}  // namespace lccl

NB_MODULE(_native, module) {
    using namespace lccl;
    module.doc() = "The native CPU engine; see lccl.engines.cpu.engine.";
    module.def("instruction_sets", &instruction_sets, "What this machine can run: (name, precision), fastest first.");
    module.def("second_level_cache", &second_level_cache, "Bytes of one core's second-level cache.");
    nb::class_<Program>(module, "Program")
        .def("__init__",
             [](Program* self, const std::string& instruction_set, bool bf16, uint32_t threads, uint32_t streams,
                uint32_t sets, uint32_t layers, uint32_t exits, size_t cache_bytes) {
                 if (!threads || threads > 1024) throw std::invalid_argument("threads must lie in 1..1024");
                 if (layers > (1u << 16)) throw std::invalid_argument("too many layers");
                 if (exits > (1u << 16)) throw std::invalid_argument("too many exits");
                 new (self) Program(choose(instruction_set, bf16), threads, streams, sets, layers, exits, cache_bytes);
             },
             "instruction_set"_a, "bf16"_a, "threads"_a, "streams"_a, "sets"_a, "layers"_a, "exits"_a,
             "cache_bytes"_a)
        .def("add_buffer", &Program::add_buffer, "channels"_a, "height"_a, "width"_a)
        .def("add_normalise",
             [](Program& self, const Input<float, 1>& mean, const Input<float, 1>& std, int raw) {
                 self.add_normalise(values_of(mean, "mean"), values_of(std, "std"), raw);
             },
             nb::arg("mean").noconvert(), nb::arg("std").noconvert(), "raw"_a)
        .def("add_convolution", &add_convolution, "input"_a, nb::arg("weight").noconvert(), "stride"_a,
             nb::arg("scale").noconvert().none(), nb::arg("shift").noconvert().none(), "relu"_a, "gate"_a.none(),
             "residual"_a, "residual_stride"_a, "raw"_a, "activated"_a, nb::arg("activated_scale").noconvert().none(),
             nb::arg("activated_shift").noconvert().none())
        .def("add_max_pool", &Program::add_max_pool, "input"_a, "kernel"_a, "stride"_a, "raw"_a)
        .def("add_average_pool", &Program::add_average_pool, "input"_a, "grid"_a, "raw"_a)
        .def("add_exit", &add_exit, "exit"_a, "input"_a, nb::arg("hidden_weight").noconvert(),
             nb::arg("hidden_bias").noconvert(), nb::arg("weight").noconvert(), nb::arg("bias").noconvert())
        .def("add_classifier", &add_classifier, "input"_a, nb::arg("weight").noconvert(), nb::arg("bias").noconvert())
        .def("finish", &Program::finish)
        .def("run", &run, nb::arg("images").noconvert(), nb::arg("thresholds").noconvert(),
             nb::arg("norm_set").noconvert(), nb::arg("exit_confidence").noconvert(), nb::arg("logits").noconvert(),
             nb::arg("kept").noconvert(), nb::arg("executed").noconvert(), nb::arg("exit").noconvert(),
             nb::arg("forced").noconvert().none(), nb::arg("masks").noconvert().none(),
             nb::arg("seconds").noconvert().none(), "sharing"_a = false)
        .def("run_step", &run_step, "step"_a, nb::arg("inputs").noconvert(), nb::arg("thresholds").noconvert(),
             nb::arg("norm_set").noconvert(), nb::arg("kept").noconvert(), nb::arg("executed").noconvert(),
             nb::arg("forced").noconvert().none(), nb::arg("masks").noconvert().none())
        .def_prop_ro("instruction_set", [](const Program& self) { return std::string(self.kernels().name); })
        .def_prop_ro("threads", &Program::threads)
        .def_prop_ro("streams", &Program::streams)
        .def_prop_ro("groups", &Program::groups);
}
