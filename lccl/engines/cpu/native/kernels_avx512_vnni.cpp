#include "steps.hpp"

#if defined(__AVX512VNNI__) && defined(__AVX512VL__)
#define LCCL_VNNI
#include "isa/avx512_vnni.hpp"
#endif

namespace lccl {

#ifdef LCCL_VNNI
static constexpr Kernels kernels = kernels_of<Avx512Vnni>("avx512_vnni", Precision::int8);
static constexpr Kernels narrow = kernels_of<Avx512VnniNarrow>("avx512_vnni_narrow", Precision::int8);
static constexpr Kernels evex = kernels_of<AvxVnni>("avx_vnni_evex", Precision::int8);
const Kernels* const kAvx512Vnni = &kernels;
const Kernels* const kAvx512VnniNarrow = &narrow;
const Kernels* const kAvxVnniEvex = &evex;
#else
const Kernels* const kAvx512Vnni = nullptr;
const Kernels* const kAvx512VnniNarrow = nullptr;
const Kernels* const kAvxVnniEvex = nullptr;
#endif

}  // namespace lccl
