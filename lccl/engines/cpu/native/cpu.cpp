#include "cpu.hpp"

#include <stdexcept>

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace lccl {

namespace {

#if defined(__x86_64__)
bool has_bit(uint32_t leaf, uint32_t part, int which, uint32_t bit) {
    uint32_t registers[4] = {};
    if (!__get_cpuid_count(leaf, part, &registers[0], &registers[1], &registers[2], &registers[3])) return false;
    return registers[which] >> bit & 1;
}

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool has_avx512_bf16() { return has_avx512() && has_bit(7, 1, 0, 5); }

// Tiles hold state that Linux saves only for processes that asked for it.
bool has_amx() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    if (!has_avx512_bf16() || !has_bit(7, 0, 3, 22) || !has_bit(7, 0, 3, 24)) return false;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

// AMD's Zen 4 has AVX-512, and runs its instructions in two halves.
bool has_halves() { return __builtin_cpu_is("amdfam19h") && has_avx512(); }

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif

}  // namespace

std::vector<const Kernels*> runnable() {
    std::vector<const Kernels*> found;
    const auto add = [&](const Kernels* kernels, bool runs) {
        if (kernels && runs) found.push_back(kernels);
    };
#if defined(__x86_64__)
    add(kAmx, kAmx && has_amx());
    for (const bool halves : {has_halves(), !has_halves()}) {
        add(halves ? kAvx512Bf16Narrow : kAvx512Bf16, has_avx512_bf16());
        add(halves ? kAvx512Narrow : kAvx512, has_avx512());
    }
    add(kAvx2, has_avx2());
#endif
    add(kPortable, true);
    add(kPortableBf16, true);
    add(kAmxEmulated, true);
    return found;
}

const Kernels& choose(const std::string& instruction_set, bool bf16) {
    std::string known;
    for (const Kernels* kernels : runnable()) {
        if (kernels->bf16 != bf16) continue;
        const bool slow = bf16 && (kernels == kPortableBf16 || kernels == kAmxEmulated);
        if (instruction_set == kernels->name || (instruction_set == "auto" && !slow)) return *kernels;
        known += (known.empty() ? "" : ", ") + std::string(kernels->name);
    }
    const std::string precision = bf16 ? "bf16" : "fp32";
    if (instruction_set == "auto") {
        throw std::invalid_argument("this processor has no " + precision + " arithmetic: use fp32");
    }
    throw std::invalid_argument("no instruction set '" + instruction_set.substr(0, 40) + "' for " + precision +
                                " here: use auto or one of " + known);
}

size_t second_level_cache() {
    long bytes = 0;
#if defined(__linux__) && defined(_SC_LEVEL2_CACHE_SIZE)
    bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return bytes > 0 ? static_cast<size_t>(bytes) : size_t{1} << 20;
}

}  // namespace lccl
