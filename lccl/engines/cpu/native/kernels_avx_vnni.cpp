#include "steps.hpp"

#ifdef __AVXVNNI__
#include "isa/avx_vnni.hpp"
#endif

namespace lccl {

#ifdef __AVXVNNI__
static constexpr Kernels kernels = kernels_of<AvxVnni>("avx_vnni", Precision::int8);
const Kernels* const kAvxVnni = &kernels;
#else
const Kernels* const kAvxVnni = nullptr;
#endif

}  // namespace lccl
