#include "steps.hpp"

#ifdef __AVX2__
#include "isa/avx2_int8.hpp"
#endif

namespace lccl {

#ifdef __AVX2__
static constexpr Kernels kernels = kernels_of<Avx2Int8>("avx2", Precision::int8);
const Kernels* const kAvx2Int8 = &kernels;
#else
const Kernels* const kAvx2Int8 = nullptr;
#endif

}  // namespace lccl
