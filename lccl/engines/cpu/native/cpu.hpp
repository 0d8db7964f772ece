// Which kernels this machine can run, and how large its second-level cache is.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "kernels.hpp"

namespace lccl {

// Those that can run here, fastest first; the portable and emulated ones, chosen last or by name only, at the end.
std::vector<const Kernels*> runnable();

// The kernels of that name and precision; throws std::invalid_argument, which lists the names there are.
const Kernels& choose(const std::string& instruction_set, const std::string& precision);

const char* name_of(Precision precision);

// Bytes of one core's second-level cache, 1 MiB where the system does not report it.
size_t second_level_cache();

}  // namespace lccl
