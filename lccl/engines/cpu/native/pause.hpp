// What differs between processors for a thread that waits, and for one that computes.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace lccl {

#if defined(__x86_64__) || defined(__i386__)
static inline void pause() { _mm_pause(); }

constexpr uint64_t kFlushDenormals = 0x8040;
static inline uint64_t arithmetic_mode() { return _mm_getcsr(); }
static inline void set_arithmetic_mode(uint64_t mode) { _mm_setcsr(static_cast<uint32_t>(mode)); }
#elif defined(__aarch64__)
static inline void pause() { __asm__ volatile("isb"); }  // `yield` takes no time

constexpr uint64_t kFlushDenormals = uint64_t{1} << 24;
static inline uint64_t arithmetic_mode() {
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
}
static inline void set_arithmetic_mode(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#else
static inline void pause() {}

constexpr uint64_t kFlushDenormals = 0;
static inline uint64_t arithmetic_mode() { return 0; }
static inline void set_arithmetic_mode(uint64_t) {}
#endif

// While it lives, this thread takes numbers too small for float32's normal range as 0, or computes with them: they cost
// many cycles each.
class FlushDenormals {
  public:
    explicit FlushDenormals(bool flush) : before_(arithmetic_mode()) {
        set_arithmetic_mode(flush ? before_ | kFlushDenormals : before_ & ~kFlushDenormals);
    }
    ~FlushDenormals() { set_arithmetic_mode(before_); }
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;

  private:
    uint64_t before_;
};

}  // namespace lccl
