// One step alone, for tests: on given values, its outputs NaN before it. In int8 values are the integers stored.
#pragma once

#include <utility>
#include <vector>

#include "executor.hpp"

namespace lccl {

struct Values {  // of a buffer with its border: [count, height + 2 pad, width + 2 pad, channels]
    int buffer;
    std::vector<float> values;
};

// What run_single_step() is given values of: the buffers that a convolution or a pool reads.
const std::vector<int>& reads_of(const Program& program, uint32_t step);

// `inputs` are of the same form, by buffer.
std::vector<Values> run_single_step(Executor& executor, uint32_t step,
                                    const std::vector<std::pair<int, const float*>>& inputs, const Batch& batch);

}  // namespace lccl
