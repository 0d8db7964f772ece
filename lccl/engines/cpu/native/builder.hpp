// Takes a plan's buffers and steps, checks that they fit, packs weights, and gives a program.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "packing.hpp"
#include "program.hpp"

namespace lccl {

struct Affine {  // [channels] each, or empty
    std::vector<float> scale, shift;
};

struct ConvolutionWeights {  // a gate's are left out where there is none
    Filter filter, gate;
    Affine affine, activation, gate_affine;
    std::vector<int32_t> correction, gate_correction;  // int8
};

struct LinearWeights {
    Filter filter;
    std::vector<float> bias;
};

// A step comes with its buffers and settings; its weights are packed here, and its offsets set at the end. What breaks
// a rule could read memory that no step wrote, or write what is still read: it throws std::invalid_argument.
class ProgramBuilder {
  public:
    ProgramBuilder(const Kernels& kernels, uint32_t layers, uint32_t exits, size_t cache_bytes);

    void add_buffer(Buffer buffer, const std::string& storage);
    int number_of(const std::string& buffer) const;

    void add(NormaliseStep step, const std::vector<float>& mean, const std::vector<float>& std,
             const std::vector<uint8_t>& zero);
    void add(ConvolveStep step, const ConvolutionWeights& weights);
    void add(MaxPoolStep step);
    void add(AveragePoolStep step);
    void add(ExitStep step, const LinearWeights& hidden, const LinearWeights& answer);
    void add(ClassifyStep step, const LinearWeights& answer);

    std::unique_ptr<const Program> finish();

  private:
    const Map& map(int buffer) const { return program_->map(buffer); }
    void check_written(int buffer) const;
    void check_reads(int buffer) const;
    void check_write(int buffer, uint32_t channels, uint32_t height, uint32_t width, bool pooled = false) const;
    void check_residual(const ConvolveStep& step, uint32_t height, uint32_t width) const;
    void check_gate(const ConvolveStep& step, const Filter& filter) const;
    void check_pooled(int buffer, const Filter& filter) const;
    void set_classes(uint32_t classes);
    void pack_gate(ConvolveStep& step, const ConvolutionWeights& weights, uint32_t height, uint32_t width);
    Linear linear(const LinearWeights& weights);
    void append(Step step, Uses uses);
    const void* keep(Memory memory);
    const float* keep(const std::vector<float>& values, uint32_t channels);
    const int32_t* keep(std::vector<int32_t> correction, const Filter& filter);

    const size_t cache_bytes_;
    std::unique_ptr<Program> program_;
    std::vector<std::string> storages_;  // per buffer
    std::vector<bool> written_;          // per buffer: by the steps so far
    std::vector<bool> exits_;            // whether each has its step
    bool classified_ = false;
};

// Refuse what is not a quantised buffer or step, or whose sums could exceed 32 bits or values float32.
void check_quantum(const Program& program, const Buffer& buffer, bool image);
void check_arithmetic(const Program& program, const ConvolveStep& step, const ConvolutionWeights& weights);
void check_pool(const Program& program, int input, int output);

// Refuses a program in which a buffer's storage, border or lifetime does not serve all steps that use it.
void check_memory(const Program& program);

}  // namespace lccl
