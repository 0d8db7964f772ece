#include "steps.hpp"

#ifdef __ARM_FEATURE_MATMUL_INT8
#include "isa/neon_i8mm.hpp"
#endif

namespace lccl {

#ifdef __ARM_FEATURE_MATMUL_INT8
static constexpr Kernels kernels = kernels_of<NeonI8mm>("neon_i8mm", Precision::int8);
const Kernels* const kNeonI8mm = &kernels;
#else
const Kernels* const kNeonI8mm = nullptr;
#endif

}  // namespace lccl
