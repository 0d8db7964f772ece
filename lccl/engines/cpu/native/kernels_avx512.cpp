#include "steps.hpp"

#ifdef __AVX512F__
#include "isa/avx512.hpp"
#endif

namespace lccl {

#ifdef __AVX512F__
static constexpr Kernels kernels = kernels_of<Avx512>("avx512", Precision::fp32);
static constexpr Kernels narrow = kernels_of<Avx512Narrow>("avx512_narrow", Precision::fp32);
const Kernels* const kAvx512 = &kernels;
const Kernels* const kAvx512Narrow = &narrow;
#else
const Kernels* const kAvx512 = nullptr;
const Kernels* const kAvx512Narrow = nullptr;
#endif

}  // namespace lccl
