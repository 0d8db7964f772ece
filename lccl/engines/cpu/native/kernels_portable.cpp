#include "steps.hpp"

#include "isa/portable.hpp"

namespace lccl {

static constexpr Kernels portable = kernels_of<Portable>("portable", false);
static constexpr Kernels portable_bf16 = kernels_of<PortableBf16>("portable", true);
const Kernels* const kPortable = &portable;
const Kernels* const kPortableBf16 = &portable_bf16;

}  // namespace lccl
