"""What decides under Ray Serve which replica gets a request, when a batch is full, and how many replicas there are."""

from __future__ import annotations

import asyncio
import pickle
from types import SimpleNamespace

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


@pytest.fixture(autouse=True)
def _with_ray():
    pytest.importorskip("ray", reason="Ray is not installed: make test-ray")


class Replica:
    """A replica as a router sees it."""

    def __init__(self, name, **full):
        from ray.serve.request_router import ReplicaID

        self.replica_id, self.replica_metadata = ReplicaID(name, deployment_id()), {"full": full}


def deployment_id():
    from ray.serve._private.common import DeploymentID

    return DeploymentID("lccl")


def asked(model, number):
    """A request for a model as Ray's proxy hands it to the router."""
    from ray.serve._private.common import RequestMetadata, RequestProtocol, StreamingHTTPRequest
    from ray.serve.request_router import PendingRequest

    scope = {"path": f"/prefix/v1/models/{model}/classify"}
    metadata = RequestMetadata(str(number), str(number), _request_protocol=RequestProtocol.HTTP)
    return PendingRequest(
        [pickle.dumps(StreamingHTTPRequest(asgi_scope=scope, proxy_actor_name="proxy"))], {}, metadata
    )


def test_requests_for_a_model_join_until_a_batch_is_full():
    from ray.serve._private.common import DeploymentHandleSource

    from deploy.ray.routing import FullBatches

    async def route():
        there = [Replica(name, many=3, few=1) for name in "ABC"]
        router = FullBatches(deployment_id(), DeploymentHandleSource.PROXY, use_replica_queue_len_cache=True)
        router.initialize_state()
        went, ended = [], {}
        for number, model in enumerate(["many", "few", "many", "many", "many", "few", "other"]):
            request = asked(model, number)
            ((first,), *others) = await router.choose_replicas(there, request)
            assert len(others) == len(there) - 1
            router.on_send_request(first.replica_id)
            router.on_request_routed(request, first.replica_id, None)
            request.future.set_result(first)
            await asyncio.sleep(0)
            went.append(f"{model} {first.replica_id.unique_id}")
            ended[str(number)] = first.replica_id
        for number, replica in ended.items():
            router.on_request_completed(replica, number)
        await router.choose_replicas(there, waiting := asked("many", 7))
        ((first,), *_) = await router.choose_replicas(there, asked("few", 8))
        assert first.replica_id.unique_id == "C"  # B has been chosen
        waiting.future.cancel()
        await asyncio.sleep(0)
        assert router._chosen[there[1].replica_id] == 0
        assert not router._under_way
        assert not router._models
        return went

    assert asyncio.run(route()) == ["many A", "few B", "many A", "many A", "many C", "few B", "other C"]


def test_replicas_are_asked_for_by_requests_and_by_waits():
    from deploy.ray.scaling import OngoingAndWait

    def replicas(requests, *waits):
        waits = {"predicted_wait_s": dict(enumerate(waits))} if waits else None
        target = SimpleNamespace(get_target_ongoing_requests=lambda: 8.0)
        return OngoingAndWait(0.025)(
            SimpleNamespace(total_num_requests=requests, aggregated_metrics=waits, config=target)
        )

    assert replicas(24) == (3.0, {})
    assert replicas(24, 0.01, 0.015) == (3.0, {})
    assert replicas(24, 0.05, 0.05) == (4.0, {})
    assert replicas(0, 0.0, 0.0) == (0.0, {})


@pytest.mark.parametrize(
    ("alone_s", "each_s", "full"), [(0.0, 0.001, 1), (0.001, 0.001, 1), (0.008, 0.001, 8), (1.0, 0.001, 64), (1, 0, 64)]
)
def test_a_batch_is_full_when_its_images_cost_what_it_costs_alone(monkeypatch, bundle, alone_s, each_s, full):
    from deploy.ray import routing

    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)

    def run(images, options):
        clock.now += alone_s + each_s * len(images)

    monkeypatch.setattr(routing, "time", clock)
    image = SimpleNamespace(height=8, width=8)
    engine = SimpleNamespace(plan=SimpleNamespace(image=image), batch_limit=64, run=run)
    assert routing.images_that_fill(engine, bundle) == full
