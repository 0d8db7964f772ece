"""The application of Ray Serve on a Ray of its own, for :mod:`benchmarks.ray`, until SIGTERM."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from benchmarks import results

STORE_BYTES = 80_000_000
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "PYTHONPATH": str(Path(__file__).parents[1]),
}


def main() -> None:
    """Serve."""
    options = results.command_line(
        __doc__,
        results.argument("--port", type=int, required=True),
        results.argument("--models", required=True),
        results.argument("--log-level", required=True),
        results.argument("--replicas", type=int, required=True),
    ).parse_args()
    os.environ.update(RAY)

    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from deploy.ray.application import Replica

    head = {"num_cpus": options.replicas, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(address=cluster.address, log_to_driver=False)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    serve.start(http_options={"host": "127.0.0.1", "port": options.port})
    settings = {"LCCL_MODELS": options.models, "LCCL_LOG_LEVEL": options.log_level}
    replica = Replica.options(
        num_replicas=options.replicas,
        autoscaling_config=None,
        health_check_period_s=2,
        ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": settings}},
    )
    serve.run(replica.bind())
    signal.sigwait({signal.SIGTERM})
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
