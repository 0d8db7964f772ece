#include "steps.hpp"

#ifdef __AVX512F__
#include "isa/avx512.hpp"
#endif

namespace lccl {

#ifdef __AVX512F__
static constexpr Kernels kernels = kernels_of<Avx512>("avx512", false);
const Kernels* const kAvx512 = &kernels;
#else
const Kernels* const kAvx512 = nullptr;
#endif

}  // namespace lccl
