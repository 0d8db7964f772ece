#include "steps.hpp"

#include "isa/portable_int8.hpp"

namespace lccl {

static constexpr Kernels kernels = kernels_of<PortableInt8Of<8>>("portable", Precision::int8);
const Kernels* const kPortableInt8 = &kernels;

}  // namespace lccl
