// What differs between processors for a thread that waits, and for one that computes.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace lccl {

static inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#endif
}

// While it lives, this thread takes numbers too small for float32's normal range as 0, or computes with them: they cost
// many cycles each.
class FlushDenormals {
  public:
#if defined(__x86_64__) || defined(__i386__)
    explicit FlushDenormals(bool flush) : before_(_mm_getcsr()) {
        _mm_setcsr(flush ? before_ | 0x8040 : before_ & ~0x8040u);
    }
    ~FlushDenormals() { _mm_setcsr(before_); }

  private:
    uint32_t before_;
#else
    explicit FlushDenormals(bool) {}
#endif
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;
};

}  // namespace lccl
