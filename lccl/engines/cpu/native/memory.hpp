// Zeroed memory on cache-line boundaries; large blocks on large pages, where the system gives them.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace lccl {

struct Free {
    void operator()(char* block) const { std::free(block); }
};
using Memory = std::unique_ptr<char, Free>;

inline Memory allocate(size_t bytes) {
    constexpr size_t kPage = size_t{2} << 20, kLine = 64;
    const size_t alignment = bytes >= kPage / 2 ? kPage : kLine;
    const size_t rounded = (bytes + alignment) / alignment * alignment;
    char* block = static_cast<char*>(std::aligned_alloc(alignment, rounded));
    if (!block) throw std::bad_alloc();
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (alignment == kPage) madvise(block, rounded, MADV_HUGEPAGE);
#endif
    std::memset(block, 0, rounded);
    return Memory(block);
}

}  // namespace lccl
