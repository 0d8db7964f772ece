#include "steps.hpp"

#ifdef __aarch64__
#include "isa/neon.hpp"
#endif

namespace lccl {

#ifdef __aarch64__
static constexpr Kernels kernels = kernels_of<Neon>("neon", Precision::fp32);
const Kernels* const kNeon = &kernels;
#else
const Kernels* const kNeon = nullptr;
#endif

}  // namespace lccl
