// Reads a plan (lccl/plan/steps.py) and its memory (lccl/plan/memory.py) from their Python objects.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>

#include "program.hpp"

namespace lccl {

// Throws std::invalid_argument or a type error where a field is missing, or has a type or value that does not fit.
std::unique_ptr<const Program> read_plan(nanobind::handle plan, nanobind::handle memory, const Kernels& kernels,
                                         size_t cache_bytes);

}  // namespace lccl
