#include "steps.hpp"

#ifdef __AVX2__
#include "isa/avx2.hpp"
#endif

namespace lccl {

#ifdef __AVX2__
static constexpr Kernels kernels = kernels_of<Avx2>("avx2", Precision::fp32);
const Kernels* const kAvx2 = &kernels;
#else
const Kernels* const kAvx2 = nullptr;
#endif

}  // namespace lccl
