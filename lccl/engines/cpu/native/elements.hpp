// Elements of weights and maps, 4 bytes of float32, 2 of bfloat16 or one, for code that does not have to be fast.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "bfloat16.hpp"

namespace lccl {

static inline void put(char* base, size_t index, size_t element, float value) {
    if (element == 4) {
        std::memcpy(base + 4 * index, &value, 4);
    } else if (element == 1) {  // as two's complement where it is below 0
        base[index] = static_cast<char>(static_cast<int>(value));
    } else {
        const BFloat16 rounded = to_bfloat16(value);
        std::memcpy(base + 2 * index, &rounded, 2);
    }
}

static inline float get(const char* base, size_t index, size_t element) {
    if (element == 1) return static_cast<uint8_t>(base[index]);
    if (element == 2) {
        BFloat16 stored;
        std::memcpy(&stored, base + 2 * index, 2);
        return widen(stored);
    }
    float value;
    std::memcpy(&value, base + 4 * index, 4);
    return value;
}

}  // namespace lccl
