#include "team.hpp"

#include <thread>

#include "pause.hpp"

namespace lccl {

void Team::wait() {
    if (size_ == 1) return;
    const uint32_t generation = generation_.value.load(std::memory_order_acquire);
    if (waiting_.value.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
        waiting_.value.store(0, std::memory_order_relaxed);
        generation_.value.store(generation + 1, std::memory_order_release);
        return;
    }
    for (uint32_t spins = 0; generation_.value.load(std::memory_order_acquire) == generation; ++spins) {
        if (spins < 4000) {
            pause();
        } else {
            std::this_thread::yield();
        }
    }
}

}  // namespace lccl
