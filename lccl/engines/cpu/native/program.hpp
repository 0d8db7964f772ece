// A plan laid out for this machine: packed weights, buffers in an arena, and the threads that run it.
//
// program.cpp takes buffers and steps, layout.cpp gives them their places, running.cpp runs batches and
// single_step.cpp, for tests, one step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "kernels.hpp"
#include "memory.hpp"
#include "packing.hpp"
#include "pool.hpp"
#include "team.hpp"

namespace lccl {

struct Affine {  // [sets, channels] each, or empty
    std::vector<float> scale, shift;
};

struct GateLayout {
    int layer, input;
    Filter filter;
    Affine affine;
};

struct ConvolutionLayout {
    int input;
    Filter filter;
    uint32_t stride;
    Affine affine;
    bool relu;
    const GateLayout* gate;  // or null
    int residual;
    uint32_t residual_stride;
    int raw, activated;
    Affine activation;
};

// A batch: inputs, and where the outputs go. Shapes are checked by whoever fills it.
struct Batch {
    uint32_t count;
    const void* images;
    bool pixels;
    const float* thresholds;
    const int64_t* norm_set;
    const float* exit_confidence;
    const uint8_t* const* forced;
    uint8_t* const* masks;
    float* logits;
    int64_t *kept, *executed, *exit;
    double* seconds;  // per step, or null
};

class Program {
  public:
    // `streams` is how many batches may run at once while they share the threads; 1 for one with all of them.
    Program(const Kernels& kernels, uint32_t threads, uint32_t streams, uint32_t sets, uint32_t layers,
            uint32_t exits, size_t cache_bytes);
    ~Program();
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    int add_buffer(uint32_t channels, uint32_t height, uint32_t width);
    void add_normalise(const std::vector<float>& mean, const std::vector<float>& std, int raw);
    void add_convolution(const ConvolutionLayout& layout);
    void add_max_pool(int input, uint32_t kernel, uint32_t stride, int raw);
    void add_average_pool(int input, uint32_t grid, int raw);
    void add_exit(uint32_t exit, int input, const Filter& hidden, const std::vector<float>& hidden_bias,
                  const Filter& answer, const std::vector<float>& bias);
    void add_classifier(int input, const Filter& filter, const std::vector<float>& bias);
    void finish();

    // With all threads, or, where others run batches too, `sharing` them.
    void run(const Batch& batch, bool sharing);

    // One step alone, for tests. `inputs` are float32 [count, channels, height, width] by buffer; everything the step
    // writes is NaN before it. Returns each output with its border, [count, channels, height + 2 pad, width + 2 pad].
    struct Taken {
        int buffer;
        uint32_t pad;
        std::vector<float> values;
    };
    std::vector<Taken> run_step(uint32_t step, const std::vector<std::pair<int, const float*>>& inputs,
                                const Batch& batch);

    const Kernels& kernels() const { return kernels_; }
    uint32_t threads() const { return whole().pool->size(); }
    uint32_t streams() const { return std::max<uint32_t>(1, static_cast<uint32_t>(streams_.size()) - 1); }
    uint32_t steps() const { return static_cast<uint32_t>(steps_.size()); }
    bool groups() const { return first_grouped_ < steps_.size(); }
    uint32_t sets() const { return sets_; }
    uint32_t layers() const { return layers_; }
    uint32_t exits() const { return static_cast<uint32_t>(exits_.size()); }
    uint32_t classes() const { return classes_; }
    const Map& image() const { return buffer(image_); }
    // Maps and positions of each layer's gate.
    const std::vector<std::pair<uint32_t, uint32_t>>& gates() const { return gate_shapes_; }
    const Map& buffer(int number) const { return maps_[static_cast<size_t>(number)]; }
    bool ready() const { return state_ == State::kReady; }
    // What run_step() is given values of: the buffers that a convolution or a pool reads.
    const std::vector<int>& reads(uint32_t step) const;

  private:
    using Step = std::variant<NormaliseStep, ConvolveStep, MaxPoolStep, AveragePoolStep, ExitStep, ClassifyStep>;
    enum class State { kOpen, kClosed, kReady };
    struct Use {  // of buffers by a step
        std::vector<int> reads, writes;
    };
    struct Strides {
        uint32_t convolution, residual, gate_kernel;
    };
    struct Banded {  // a convolution that runs together with the pool after it
        ConvolveStep convolve;
        MaxPoolStep pool;
        uint32_t band, ring;  // rows computed at once, and rows held
    };
    struct Lifetime {  // steps
        size_t first, last;
        bool overlaps(const Lifetime& other) const { return first <= other.last && other.first <= last; }
    };
    struct Needs {  // of a crew: the most that any step takes
        size_t images, rows, gates, cells, hidden, blocks;
    };
    struct Member {
        std::vector<Active> active;
        Memory kept, skipped, blocks, cells;
        Work work;
    };
    struct Crew {  // a team and what it needs
        std::unique_ptr<Team> team;
        std::vector<Member> members;
        std::vector<Map> maps;
        Memory gates, hidden;
        std::vector<double> seconds;
    };
    struct Stream {  // threads, and the memory that they run a batch in
        explicit Stream(uint32_t threads) : pool(std::make_unique<Pool>(threads)) {}
        std::unique_ptr<Pool> pool;
        uint32_t slots = 1;          // images of a group
        std::vector<Memory> arenas;  // each thread's, for the image it works on
        Memory group_arena;          // one for all, [slots]
        std::vector<Crew> solo;
        Crew joint;
        std::mutex running;
        bool timed = false;  // whether the batch that runs asks for seconds
    };

    void check_buffer(int buffer) const;
    void check_reads(std::initializer_list<int> buffers) const;
    void check_write(int buffer) const;
    void check_map(int buffer, uint32_t channels, uint32_t height, uint32_t width, const char* what) const;
    void check_residual(const ConvolutionLayout& layout, uint32_t height, uint32_t width) const;
    void check_gate(const GateLayout& gate, const ConvolutionLayout& layout) const;
    void check_pooled(int buffer, uint32_t channels, uint32_t grid) const;
    void check_classes(uint32_t classes) const;
    ConvolveStep make_convolution(const ConvolutionLayout& layout, uint32_t positions);
    GateSpec make_gate(const GateLayout& gate, uint32_t out_channels);
    Linear make_linear(const Filter& filter, const std::vector<float>& bias);
    void append(Step step, Use use, Strides strides);
    const void* keep(Memory memory);
    const float* keep(std::vector<float> values);
    const float* keep_affine(const std::vector<float>& values, uint32_t channels);

    void share_places();
    bool never_negative(int buffer, size_t before) const;
    void set_borders();
    void set_offsets();
    const uint32_t* offsets(int buffer, uint32_t kernel, uint32_t stride, uint32_t height, uint32_t width,
                            uint32_t ring = 0);
    void find_first_grouped();
    std::vector<Lifetime> find_lifetimes();
    void lay_out();
    void find_bands();
    bool pools_alone(const ConvolveStep& convolve, const MaxPoolStep& pool) const;
    size_t place_of(int buffer) const { return static_cast<size_t>(place_[static_cast<size_t>(buffer)]); }
    size_t element(const Map& map) const { return map.single ? sizeof(float) : kernels_.element(); }
    size_t bytes(const Map& map) const;

    void furnish(Stream& stream) const;
    Crew crew(const Stream& stream, uint32_t size, char* arena, uint32_t slots) const;
    Needs needs(uint32_t slots) const;
    Member member(const Needs& needs) const;
    void check_process() const;
    void clear_counts(const Batch& batch) const;
    void clear_exits(const Batch& batch) const;
    void prepare(Crew& crew, const Batch& batch) const;
    Stream& whole() const { return *streams_.front(); }
    std::pair<Stream*, std::unique_lock<std::mutex>> take_stream(bool sharing) const;
    void run_in(Stream& stream, const Batch& batch) const;
    void run_steps(Crew& crew, bool timed, uint32_t member, size_t from, size_t to, uint32_t slot, uint32_t first,
                   uint32_t count) const;
    void run_one(const Step& step, Work& work) const;
    void end_runs(const ExitStep& step, Work& work) const;
    void write_nan(const Map& map, uint32_t image) const;
    void write_values(const Map& map, uint32_t image, const float* values) const;
    void read_values(const Map& map, uint32_t image, float* values) const;

    const Kernels& kernels_;
    const uint32_t sets_, layers_;
    const size_t cache_bytes_;
    State state_ = State::kOpen;
    uint32_t classes_ = 0;
    bool classified_ = false;
    std::vector<bool> exits_;  // whether each has its step
    int image_ = kNone;
    std::vector<Map> maps_;
    std::vector<bool> written_;  // per buffer: by the steps so far
    std::vector<Step> steps_;
    std::vector<Use> uses_;         // per step
    std::vector<Strides> strides_;  // per step
    std::vector<std::pair<uint32_t, uint32_t>> gate_shapes_;
    std::vector<std::vector<float>> floats_;
    std::vector<std::vector<uint32_t>> tables_;
    std::vector<Memory> packed_;

    std::vector<std::optional<Banded>> banded_;  // per step
    size_t first_grouped_ = 0;
    std::vector<int> place_;      // of each buffer: the buffer whose memory it shares, mostly itself
    std::vector<size_t> offset_;  // bytes, in the private or the group part of an arena
    std::vector<bool> grouped_;   // held for every image of a group
    size_t private_bytes_ = 0, slot_bytes_ = 0;

    // The first has all threads. The others, if there are any, have a part of as many each, for batches that share.
    std::vector<std::unique_ptr<Stream>> streams_;
};

[[noreturn]] void refuse(const std::string& what);

}  // namespace lccl
