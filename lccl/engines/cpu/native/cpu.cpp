#include "cpu.hpp"

#include <stdexcept>

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace lccl {

namespace {

#if defined(__x86_64__)
bool has_bit(uint32_t leaf, uint32_t part, int which, uint32_t bit) {
    uint32_t registers[4] = {};
    if (!__get_cpuid_count(leaf, part, &registers[0], &registers[1], &registers[2], &registers[3])) return false;
    return registers[which] >> bit & 1;
}

// Whether the operating system saves all these parts of the registers (XCR0). Not by __builtin_cpu_supports, which some
// compilers' libraries answer with no to everything.
bool saves(uint32_t parts) {
    if (!has_bit(1, 0, 2, 27)) return false;
    uint32_t low = 0, high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & parts) == parts;
}

bool has_avx2() { return saves(0x6) && has_bit(1, 0, 2, 28) && has_bit(1, 0, 2, 12) && has_bit(7, 0, 1, 5); }

// F, BW, VL and DQ
bool has_avx512() {
    return saves(0xe6) && has_avx2() && has_bit(7, 0, 1, 16) && has_bit(7, 0, 1, 30) && has_bit(7, 0, 1, 31) &&
           has_bit(7, 0, 1, 17);
}

bool has_vnni() { return has_avx512() && has_bit(7, 0, 2, 11); }

bool has_avx_vnni() { return has_avx2() && has_bit(7, 1, 0, 4); }

bool has_avx512_bf16() { return has_avx512() && has_bit(7, 1, 0, 5); }

// `product` is the bit of what tiles multiply. They hold state that Linux saves only for processes that asked for it.
bool has_amx(uint32_t product) {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    if (!has_bit(7, 0, 3, product) || !has_bit(7, 0, 3, 24)) return false;
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
    return false;
#endif
}

// AMD's Zen 3 and 4, family 19h; Zen 4 has AVX-512, and runs its instructions in two halves.
bool has_halves() {
    uint32_t a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(0, &a, &b, &c, &d) || b != signature_AMD_ebx || c != signature_AMD_ecx) return false;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
    return (a >> 8 & 0xf) == 0xf && 0xf + (a >> 20 & 0xff) == 0x19 && has_avx512();
}
#elif defined(__aarch64__) && defined(__linux__)
bool has_dot() { return getauxval(AT_HWCAP) >> 20 & 1; }    // ASIMDDP

bool has_i8mm() { return getauxval(AT_HWCAP2) >> 13 & 1; }  // I8MM
#elif defined(__aarch64__) && defined(__APPLE__)
bool has_feature(const char* name) {
    int there = 0;
    size_t size = sizeof there;
    return sysctlbyname(name, &there, &size, nullptr, 0) == 0 && there;
}

bool has_dot() { return has_feature("hw.optional.arm.FEAT_DotProd"); }

bool has_i8mm() { return has_feature("hw.optional.arm.FEAT_I8MM"); }
#else
bool has_dot() { return false; }

bool has_i8mm() { return false; }
#endif

}  // namespace

std::vector<const Kernels*> runnable() {
    std::vector<const Kernels*> found;
    const auto add = [&](const Kernels* kernels, bool runs) {
        if (kernels && runs) found.push_back(kernels);
    };
#if defined(__x86_64__)
    add(kAmx, kAmx && has_avx512_bf16() && has_amx(22));
    add(kAmxInt8, kAmxInt8 && has_vnni() && has_amx(25));
    for (const bool halves : {has_halves(), !has_halves()}) {
        add(halves ? kAvx512Bf16Narrow : kAvx512Bf16, has_avx512_bf16());
        add(halves ? kAvx512VnniNarrow : kAvx512Vnni, has_vnni());
        add(halves ? kAvx512Narrow : kAvx512, has_avx512());
    }
    add(kAvxVnni, has_avx_vnni());
    add(kAvxVnniEvex, has_vnni());
    add(kAvx2Int8, has_avx2());
    add(kAvx2, has_avx2());
#else
    add(kNeonI8mm, has_i8mm());
    add(kNeonDot, has_dot());
    add(kNeon, true);
#endif
    add(kPortable, true);
    add(kPortableBf16, true);
    add(kPortableInt8, true);
    add(kAmxEmulated, true);
    add(kAmxInt8Emulated, true);
    return found;
}

const char* name_of(Precision precision) {
    return precision == Precision::int8 ? "int8" : precision == Precision::bf16 ? "bf16" : "fp32";
}

const Kernels& choose(const std::string& instruction_set, const std::string& precision) {
    std::string known;
    for (const Kernels* kernels : runnable()) {
        if (precision != name_of(kernels->precision)) continue;
        const bool slow = kernels == kPortableBf16 || kernels == kAmxEmulated || kernels == kAmxInt8Emulated;
        if (instruction_set == kernels->name || (instruction_set == "auto" && !slow)) return *kernels;
        known += (known.empty() ? "" : ", ") + std::string(kernels->name);
    }
    if (known.empty()) throw std::invalid_argument("there is no precision '" + precision.substr(0, 40) + "'");
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
