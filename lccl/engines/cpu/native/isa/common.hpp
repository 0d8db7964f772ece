// What an instruction set is unless it says otherwise: it reads rows where they lie, one floating input at a step.
#pragma once

#include <cstddef>
#include <cstdint>

namespace lccl {
namespace {

struct Common {
    static constexpr uint32_t row_quantum = 1, k_step = 1, k_block = 1;
    static constexpr size_t packed_bytes = 0;
    static constexpr bool quantised = false;
    static constexpr int32_t taken_off = 0;  // int8: off inputs, before they are multiplied
    struct State {  // of a thread's tile registers
        void release() {}
    };

    // Appends code + p to `kept` where values[p] > threshold, else to `skipped`.
    static void list(const float* values, uint32_t count, float threshold, uint32_t code, uint32_t* kept,
                     uint32_t& kept_count, uint32_t* skipped, uint32_t& skipped_count) {
        uint32_t k = kept_count, s = skipped_count;
        for (uint32_t p = 0; p < count; ++p) {
            const bool keep = values[p] > threshold;
            kept[k] = skipped[s] = code | p;
            k += keep;
            s += !keep;
        }
        kept_count = k;
        skipped_count = s;
    }
};

}  // namespace
}  // namespace lccl
