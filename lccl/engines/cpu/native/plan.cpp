#include "plan.hpp"

#include <nanobind/stl/string.h>

#include <set>

#include "arrays.hpp"
#include "builder.hpp"

namespace lccl {

namespace {

constexpr size_t kLargest = size_t{1} << 30;

template <class Value>
Value value_of(nb::handle object, const char* name) {
    Value value;
    const nb::object field = nb::getattr(object, name, nb::none());
    const std::string refusal = std::string(name) + " is missing or of a wrong type";
    if (!nb::try_cast(field, value)) throw nb::type_error(refusal.c_str());
    return value;
}

// A field that may be None, as every missing one is.
nb::object optional_of(nb::handle object, const char* name) { return nb::getattr(object, name, nb::none()); }

// float32; other numbers are converted.
template <int Dimensions>
Input<float, Dimensions> array_of(nb::handle object, const char* name) {
    const auto array = value_of<Input<float, Dimensions>>(object, name);
    check_aligned(array, sizeof(float), name);
    if (!array.size() || array.size() > kLargest) refuse(std::string(name) + " has no elements, or too many");
    return array;
}

std::vector<float> floats_of(nb::handle object, const char* name) {
    const auto array = array_of<1>(object, name);
    return std::vector<float>(array.data(), array.data() + array.size());
}

// No other type is converted to an integer one.
template <class Integer, int Dimensions>
Input<Integer, Dimensions> integers_of(nb::handle object, const char* name) {
    Input<Integer, Dimensions> array;
    const std::string refusal = std::string(name) + " is missing or of a wrong type";
    if (!nb::try_cast(optional_of(object, name), array, false)) throw nb::type_error(refusal.c_str());
    check_aligned(array, sizeof(Integer), name);
    if (!array.size() || array.size() > kLargest) refuse(std::string(name) + " has no elements, or too many");
    return array;
}

// Empty where the field is None.
template <class Integer>
std::vector<Integer> list_of(nb::handle object, const char* name) {
    if (optional_of(object, name).is_none()) return {};
    const auto array = integers_of<Integer, 1>(object, name);
    return std::vector<Integer>(array.data(), array.data() + array.size());
}

Affine affine_of(nb::handle affine) {
    if (affine.is_none()) return {};
    Affine values{floats_of(affine, "scale"), floats_of(affine, "shift")};
    if (values.scale.size() != values.shift.size()) refuse("a scale comes with a shift of its size");
    return values;
}

// [out, in, kernel, kernel], or [out, in] of a linear layer; the array is held while its filter is read.
template <int Dimensions>
struct Weight {
    explicit Weight(nb::handle step, const char* name = "weight") : array(array_of<Dimensions>(step, name)) {
        const auto size = [&](size_t axis) { return static_cast<uint32_t>(array.shape(axis)); };
        filter = {array.data(), size(0), size(1), Dimensions == 4 ? size(2) : 1};
        if (Dimensions == 4 && size(2) != size(3)) refuse("a weight must be [out, in, kernel, kernel]");
    }

    Input<float, Dimensions> array;
    Filter filter;
};

// int8 [out, in, kernel, kernel].
struct IntegerWeight {
    explicit IntegerWeight(nb::handle step) : array(integers_of<int8_t, 4>(step, "weight")) {
        const auto size = [&](size_t axis) { return static_cast<uint32_t>(array.shape(axis)); };
        filter = {nullptr, size(0), size(1), size(2), array.data()};
        if (size(2) != size(3)) refuse("a weight must be [out, in, kernel, kernel]");
    }

    Input<int8_t, 4> array;
    Filter filter;
};

class PlanReader {
  public:
    PlanReader(nb::handle plan, nb::handle memory, const Kernels& kernels, size_t cache_bytes)
        : quantised_(kernels.quantised()),
          builder_(kernels, count_of(nb::len(optional_of(plan, "layers"))), count_of(value_of<uint64_t>(plan, "exits")),
                   cache_bytes) {
        for (const nb::handle buffer : optional_of(plan, "buffers")) add_buffer(buffer, optional_of(memory, "buffers"));
        const std::set<size_t> in_place = numbers_of(memory, "in_place"), alone = numbers_of(memory, "pooled_alone");
        size_t number = 0;
        for (const nb::handle step : optional_of(plan, "steps")) {
            add_step(step, in_place.count(number), alone.count(number));
            ++number;
        }
    }

    std::unique_ptr<const Program> finish() { return builder_.finish(); }

  private:
    static uint32_t count_of(uint64_t count) {
        if (count > (1u << 16)) refuse("a plan has at most 65,536 layers and exits");
        return static_cast<uint32_t>(count);
    }

    static std::set<size_t> numbers_of(nb::handle memory, const char* name) {
        std::set<size_t> numbers;
        for (const nb::handle number : optional_of(memory, name)) numbers.insert(nb::cast<size_t>(number));
        return numbers;
    }

    // Buffers that no step writes have no memory.
    void add_buffer(nb::handle buffer, nb::handle memories) {
        const std::string name = value_of<std::string>(buffer, "name");
        const nb::object memory = memories.attr("get")(name);
        if (memory.is_none()) return;
        Map map{nullptr, 0, value_of<uint32_t>(buffer, "channels"), value_of<uint32_t>(buffer, "height"),
                value_of<uint32_t>(buffer, "width"), value_of<uint32_t>(memory, "border"),
                value_of<bool>(memory, "pooled")};
        const nb::object quantum = optional_of(buffer, "quantum");
        if (!quantum.is_none()) {
            map.zero = value_of<uint8_t>(quantum, "zero");
            map.scale = value_of<double>(quantum, "scale");
        }
        const size_t first = value_of<size_t>(memory, "first"), last = value_of<size_t>(memory, "last");
        builder_.add_buffer({name, map, !quantum.is_none(), kNone, first, last},
                            value_of<std::string>(memory, "storage"));
    }

    int buffer_of(nb::handle object, const char* name) const {
        return builder_.number_of(value_of<std::string>(object, name));
    }

    void add_step(nb::handle step, bool in_place, bool pooled_alone) {
        const std::string kind = value_of<std::string>(step.type(), "__name__");
        if (kind == "Normalise") {
            const NormaliseStep normalise{buffer_of(step, "raw"), nullptr, nullptr, nullptr, nullptr};
            builder_.add(normalise, floats_of(step, "mean"), floats_of(step, "std"), list_of<uint8_t>(step, "zero"));
        } else if (kind == "Convolve") {
            quantised_ ? add_convolution<IntegerWeight>(step, in_place, pooled_alone)
                       : add_convolution<Weight<4>>(step, in_place, pooled_alone);
        } else if (kind == "MaxPool") {
            builder_.add(MaxPoolStep{buffer_of(step, "input"), buffer_of(step, "raw"),
                                     value_of<uint32_t>(step, "kernel"), value_of<uint32_t>(step, "stride")});
        } else if (kind == "AveragePool") {
            builder_.add(AveragePoolStep{buffer_of(step, "input"), buffer_of(step, "raw"),
                                         value_of<uint32_t>(step, "grid")});
        } else if (kind == "Exit") {
            const Weight<4> hidden(step, "hidden_weight");
            const Weight<2> answer(step);
            builder_.add(ExitStep{buffer_of(step, "input"), value_of<uint32_t>(step, "exit"), {}, {}},
                         {hidden.filter, floats_of(step, "hidden_bias")}, {answer.filter, floats_of(step, "bias")});
        } else if (kind == "Classify") {
            const Weight<2> answer(step);
            builder_.add(ClassifyStep{buffer_of(step, "input"), {}}, {answer.filter, floats_of(step, "bias")});
        } else {
            refuse("a plan has no steps of type " + kind);
        }
    }

    template <class Weight>
    void add_convolution(nb::handle step, bool in_place, bool pooled_alone) {
        if (!optional_of(step, "split").is_none()) refuse("a split convolution has no native kernel");
        const Weight weight(step);
        ConvolveStep convolution{};
        ConvolutionWeights weights{weight.filter, {}, affine_of(optional_of(step, "affine")), {}, {},
                                   list_of<int32_t>(step, "offset"), {}};
        convolution.input = buffer_of(step, "input");
        convolution.stride = value_of<uint32_t>(step, "stride");
        convolution.relu = value_of<bool>(step, "relu");
        convolution.residual_scale = 1.0f;
        convolution.in_place = in_place;
        convolution.pooled_alone = pooled_alone;
        convolution.raw = optional_of(step, "raw").is_none() ? kNone : buffer_of(step, "raw");
        convolution.residual = convolution.activated = convolution.gate.layer = kNone;
        if (const nb::object residual = optional_of(step, "residual"); !residual.is_none()) {
            convolution.residual = buffer_of(residual, "buffer");
            convolution.residual_stride = value_of<uint32_t>(residual, "stride");
            convolution.residual_scale = value_of<float>(residual, "scale");
        }
        if (const nb::object activated = optional_of(step, "activated"); !activated.is_none()) {
            convolution.activated = buffer_of(activated, "buffer");
            weights.activation = affine_of(optional_of(activated, "affine"));
        }
        const nb::object gate = optional_of(step, "gate");
        if (gate.is_none()) return add(convolution, weights);
        const Weight gate_weight(gate);
        convolution.gate.layer = value_of<int>(gate, "layer");
        if (convolution.gate.layer < 0) refuse("a gate's layer is out of range");  // −1 would stand for no gate
        convolution.gate.input = buffer_of(gate, "input");
        weights.gate = gate_weight.filter;
        weights.gate_affine = affine_of(optional_of(gate, "affine"));
        weights.gate_correction = list_of<int32_t>(gate, "offset");
        add(convolution, weights);
    }

    // Packing weights takes the time of making an engine, needs no Python, and must not keep it from other threads.
    template <typename Step, typename Weights>
    void add(const Step& step, const Weights& weights) {
        const nb::gil_scoped_release released;
        builder_.add(step, weights);
    }

    const bool quantised_;
    ProgramBuilder builder_;
};

}  // namespace

std::unique_ptr<const Program> read_plan(nb::handle plan, nb::handle memory, const Kernels& kernels,
                                         size_t cache_bytes) {
    return PlanReader(plan, memory, kernels, cache_bytes).finish();
}

}  // namespace lccl
