#include "steps.hpp"

#ifdef __AVX512BF16__
#include "isa/avx512_bf16.hpp"
#endif

namespace lccl {

#ifdef __AVX512BF16__
static constexpr Kernels kernels = kernels_of<Avx512Bf16>("avx512_bf16", Precision::bf16);
static constexpr Kernels narrow = kernels_of<Avx512Bf16Narrow>("avx512_bf16_narrow", Precision::bf16);
const Kernels* const kAvx512Bf16 = &kernels;
const Kernels* const kAvx512Bf16Narrow = &narrow;
#else
const Kernels* const kAvx512Bf16 = nullptr;
const Kernels* const kAvx512Bf16Narrow = nullptr;
#endif

}  // namespace lccl
