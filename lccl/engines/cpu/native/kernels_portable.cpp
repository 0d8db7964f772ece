#include "steps.hpp"

#include "isa/portable.hpp"

namespace lccl {

static constexpr Kernels portable = kernels_of<Portable>("portable", Precision::fp32);
static constexpr Kernels portable_bf16 = kernels_of<PortableBf16>("portable", Precision::bf16);
const Kernels* const kPortable = &portable;
const Kernels* const kPortableBf16 = &portable_bf16;

}  // namespace lccl
