#include "thread_group.hpp"

namespace lccl {

void ThreadGroup::wait() {
    if (size_ == 1) return;
    const uint32_t generation = generation_.value.load(std::memory_order_acquire);
    if (arrived_.value.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
        arrived_.value.store(0, std::memory_order_relaxed);
        generation_.value.store(generation + 1, std::memory_order_release);
        others_.notify();
        return;
    }
    others_.until([&] { return generation_.value.load(std::memory_order_acquire) != generation; });
}

}  // namespace lccl
