"""How many replicas there should be: by requests under way and by the predicted wait."""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingContext


class OngoingAndWait:
    """As many replicas as keep both at their targets; Ray applies its bounds, factors and delays to that.

    Args:
        wait_s: predicted wait that is meant, seconds. Half of ``LCCL_QUEUE_TARGET_MS`` ends brown-out.

    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Replicas, rounded up by Ray, and no state. The waits of all replicas add up to work for more of them."""
        waits = (context.aggregated_metrics or {}).get("predicted_wait_s", {})
        by_requests = context.total_num_requests / context.config.get_target_ongoing_requests()
        return max(by_requests, sum(waits.values()) / self._wait_s), {}
