// Steps, batches and work as plain data, and the table of functions that one instruction set fills.
//
// Files compiled for an instruction set see only this header, their own isa/*.hpp and steps/*.hpp: nothing here has
// code that a linker could pick from one of them for a machine without that instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lccl {

constexpr int kNone = -1;              // no such buffer
constexpr uint32_t kPositionBits = 24; // a listed row is image << 24 | position
constexpr uint32_t kPositionMask = (1u << kPositionBits) - 1;
constexpr uint32_t kMostImages = 1u << (32 - kPositionBits);
constexpr uint32_t kLargestPool = 63;  // kernel rows
constexpr uint32_t kGroup = 8;         // images per thread that layers with large weights take at once

enum class Precision : uint8_t { fp32, bf16, int8 };

// A buffer in a workspace: NHWC with a border of `pad` zeros around every image. In int8, where an element q stands for
// (q − zero) · scale, borders hold `zero`.
struct Map {
    char* base;
    size_t image_stride;  // bytes to the next image of a group; 0 where one slot serves every image in turn
    uint32_t channels, height, width, pad;
    bool pooled;  // pooled features: float32 whatever the precision
    uint8_t zero = 0;
    double scale = 1.0;

    uint32_t pitch() const { return (width + 2 * pad) * channels; }
};

struct NormaliseStep {
    int raw;
    const void* table;            // [channels][256] elements: the value of each pixel
    const uint8_t* zero;          // int8, which holds pixels themselves: what the border holds, [channels]
    const float *scale, *shift;   // and from a normalised value to its pixel, [channels]
};

struct GateSpec {
    int layer;  // column of the thresholds; kNone without a gate
    int input;
    uint32_t groups, runs, run;
    bool per_cell;        // maps rule too few channels for rows to be worth leaving out: computed densely
    const void* weights;  // rows: [groups][runs][run, padded]; cells: packed like a convolution's
    const float *scale, *shift;  // [groups]
    const int32_t* correction;   // [groups], as a convolution's
    const uint32_t* offset;      // [positions], elements to the first tap
};

struct ConvolveStep {
    int input, residual, raw, activated;
    uint32_t stride, residual_stride;
    float residual_scale;    // int8: of a unit of the residual in units of the step's value
    uint32_t in_channels, out_channels, positions;
    uint32_t runs, run;      // kernel rows, and the contiguous elements of each
    uint32_t groups;         // lists of rows: one per map of the gate
    size_t group_weights;    // elements to the next group's weights
    size_t vector_weights;   // elements to the next vector of output channels
    bool heavy;              // weights that the second-level cache does not hold
    bool relu;
    bool in_place;           // the output lies in the residual's storage
    bool pooled_alone;       // only the max-pool after it reads what it writes, and it has no gate or residual
    const void* weights;
    const int32_t* correction;                       // int8: added to the sums, [out_channels] or null
    const float *scale, *shift;                      // [out_channels] or null
    const float *activated_scale, *activated_shift;  // the same
    const uint32_t *offset, *raw_offset, *activated_offset, *residual_offset;  // [positions], elements
    GateSpec gate;
};

struct MaxPoolStep {
    int input, raw;
    uint32_t kernel, stride;
};

struct AveragePoolStep {
    int input, raw;
    uint32_t grid;  // parts of each side
};

struct Linear {  // float32 whatever the precision
    uint32_t in, out;
    size_t vector_weights;  // elements to the next vector of outputs
    const float *weights, *bias;
};

struct ClassifyStep {
    int input;
    Linear answer;
};

struct ExitStep {
    int input;
    uint32_t exit;
    Linear hidden, answer;
};

// A worker's own memory.
struct Scratch {
    uint32_t *kept, *skipped;  // listed rows
    char* blocks;              // packed inputs, where an instruction set packs
    size_t block_bytes;        // of one of them
    float* cells;              // gate values of a chunk of rows
};

// A batch: inputs, and where the outputs go. Shapes are checked before it is filled.
struct Batch {
    uint32_t count, layers, exits;
    const void* images;
    bool pixels;                   // uint8, to be normalised
    const float* thresholds;       // [count, layers]
    const float* exit_confidence;  // [count, exits]
    const uint8_t* const* forced;  // per layer [count, maps, positions], or null
    uint8_t* const* masks;         // the same, written; or null
    float* logits;
    int64_t *kept, *executed;  // [count, layers], [count]
    int64_t* exit_index;       // by which exit an image left; `exits` where it did not
    double* seconds;           // per step, or null
};

class ThreadGroup;

struct Active {  // an image whose run has not ended
    uint32_t slot;    // in the workspace
    uint32_t number;  // in the batch
};

// A worker's images: the first `count` of the active images. Every worker of a group has a list of its own, all
// with the same images.
struct Work {
    const Batch* batch;
    const Map* maps;
    Active* active;
    uint32_t count;
    float* gates;   // [count][groups][positions], the group's
    float* hidden;  // [count][units], the group's
    Scratch scratch;
    ThreadGroup* threads;
    uint32_t worker;
    uint32_t round;  // of the group's sharing; the same for all workers

    size_t number(uint32_t image) const { return active[image].number; }
    char* at(int buffer, uint32_t image) const {
        return maps[buffer].base + active[image].slot * maps[buffer].image_stride;
    }
};

// The layout of weights and tiles that an instruction set reads, and its steps.
struct Kernels {
    const char* name;
    Precision precision;
    uint32_t lanes;        // output channels of one vector
    uint32_t panel;        // vectors that one tile takes
    uint32_t single_panel; // the same for float32 classifiers
    uint32_t rows;         // rows that one tile takes
    uint32_t k_step;       // neighbouring inputs that one instruction sums
    uint32_t k_block;      // steps of k that weights are padded to
    uint32_t dot_step;     // elements that one step of a gate's dot product takes
    uint32_t chunk;        // tiles of rows that share a panel of large weights
    int32_t taken_off;     // int8: what inputs are multiplied without; `correction` makes up for it
    size_t packed_bytes;   // per row and element of k; 0 where inputs are read through an indirection buffer
    void (*normalise)(const NormaliseStep&, Work&);
    void (*convolve)(const ConvolveStep&, Work&);
    void (*convolve_and_pool)(const ConvolveStep&, const MaxPoolStep&, uint32_t band, uint32_t ring, Work&);
    void (*max_pool)(const MaxPoolStep&, Work&);
    void (*average_pool)(const AveragePoolStep&, Work&);
    void (*classify)(const ClassifyStep&, Work&);
    void (*answer)(const ExitStep&, Work&);  // an exit's logits, of every image

    bool quantised() const { return precision == Precision::int8; }
    size_t element() const { return quantised() ? 1 : precision == Precision::bf16 ? 2 : 4; }  // bytes
};

// Each is null where the compiler could not build it; cpu.cpp decides whether the machine can run it.
extern const Kernels* const kPortable;
extern const Kernels* const kPortableBf16;
extern const Kernels* const kAvx2;
extern const Kernels* const kAvx512;
extern const Kernels* const kAvx512Narrow;
extern const Kernels* const kAvx512Bf16;
extern const Kernels* const kAvx512Bf16Narrow;
extern const Kernels* const kAmx;
extern const Kernels* const kAmxEmulated;
extern const Kernels* const kPortableInt8;
extern const Kernels* const kAvx2Int8;
extern const Kernels* const kAvxVnni;
extern const Kernels* const kAvxVnniEvex;
extern const Kernels* const kAvx512Vnni;
extern const Kernels* const kAvx512VnniNarrow;
extern const Kernels* const kAmxInt8;
extern const Kernels* const kAmxInt8Emulated;
extern const Kernels* const kNeon;
extern const Kernels* const kNeonDot;
extern const Kernels* const kNeonI8mm;

}  // namespace lccl
