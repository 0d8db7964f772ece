#include "steps.hpp"

#ifdef __ARM_FEATURE_DOTPROD
#include "isa/neon_dot.hpp"
#endif

namespace lccl {

#ifdef __ARM_FEATURE_DOTPROD
static constexpr Kernels kernels = kernels_of<NeonDot>("neon_dot", Precision::int8);
const Kernels* const kNeonDot = &kernels;
#else
const Kernels* const kNeonDot = nullptr;
#endif

}  // namespace lccl
