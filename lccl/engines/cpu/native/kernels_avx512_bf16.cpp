#include "steps.hpp"

#ifdef __AVX512BF16__
#include "isa/avx512_bf16.hpp"
#endif

namespace lccl {

#ifdef __AVX512BF16__
static constexpr Kernels kernels = kernels_of<Avx512Bf16>("avx512_bf16", true);
const Kernels* const kAvx512Bf16 = &kernels;
#else
const Kernels* const kAvx512Bf16 = nullptr;
#endif

}  // namespace lccl
