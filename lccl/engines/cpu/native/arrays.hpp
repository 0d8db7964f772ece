// Arrays that come from Python: every one is checked before its pointer is taken.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <initializer_list>
#include <string>

#include "program.hpp"

namespace lccl {

namespace nb = nanobind;

template <class Scalar, int Dimensions>
using Input = nb::ndarray<const Scalar, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
template <class Scalar, int Dimensions>
using Result = nb::ndarray<Scalar, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;

template <class Array>
void check_aligned(const Array& array, size_t alignment, const std::string& name) {
    if (!array.is_valid()) refuse(name + " must be an array, not None");
    if (reinterpret_cast<uintptr_t>(array.data()) % alignment) refuse(name + " is not aligned to its type");
}

template <class Array>
void check(const Array& array, std::initializer_list<size_t> shape, size_t alignment, const char* name) {
    check_aligned(array, alignment, name);
    size_t axis = 0;
    bool fits = true;
    std::string text;
    for (const size_t wanted : shape) {
        fits &= array.shape(axis++) == wanted;
        text += (text.empty() ? "" : ", ") + std::to_string(wanted);
    }
    if (!fits) refuse(std::string(name) + " must be [" + text + "]");
}

}  // namespace lccl
