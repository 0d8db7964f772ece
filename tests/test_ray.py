"""The application of Ray Serve, on a real Ray of several nodes: its answers, faults under load, scaling, metrics."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import socket
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.server import small_alone
from tests.served import served

ROOT = Path(__file__).parents[1]
KEY = "a key of the tests"
HEADERS = {"x-api-key": KEY, "content-type": "image/png"}
PREFIX = "/lccl"
SETTINGS = {
    "LCCL_MODELS": str(small_alone()), "LCCL_API_KEY": KEY, "LCCL_LOG_LEVEL": "warning", "LCCL_ROOT_PATH": PREFIX,
}  # fmt: skip
RAY = {
    "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
}  # fmt: skip
NODES = 3
SOON_S = 60.0
# What a request may get while its replica is killed: an answer of Ray's proxy or of HAProxy, or none.
LOST = {f"{status} of Ray" for status in (408, 500, 502, 503, 504)} | {"no answer"}
QUERIES = ("", "?operating_point=exact", "?sparsity=0.3", "?max_accuracy_drop=5")  # none may be lowered under load

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]  # Ray's own warnings


def png(seed, side=32):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def images():
    return [png(seed) for seed in range(8)]


@pytest.fixture(scope="module")
def expected(images):
    """What lccl-serve itself answers, by image and query."""
    flags = ("--models", str(small_alone()), "--api-key", KEY)
    with served(*flags) as base, httpx.Client(base_url=base, headers=HEADERS) as client:
        return {
            (number, query): client.post(f"/v1/classify{query}", content=image).raise_for_status().json()["predictions"]
            for number, image in enumerate(images)
            for query in QUERIES
        }


@pytest.fixture(scope="module")
def cluster():
    """A head with the proxy, and nodes with a processor each."""
    pytest.importorskip("ray", reason="Ray is not installed: make test-ray")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY.items():
            patch.setenv(name, value)
        import ray
        from ray import serve
        from ray.cluster_utils import Cluster

        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **SMALL})
        ray.init(address=made.address, logging_level="warning", log_to_driver=False)  # on the head
        made.replicas = [made.add_node(num_cpus=1, **SMALL) for _ in range(NODES)]
        serve.start(proxy_location="HeadOnly", http_options={"port": free_port(), "request_timeout_s": 30})
        yield made
        serve.shutdown()
        ray.shutdown()
        made.shutdown()


SMALL = {"object_store_memory": 80_000_000, "include_dashboard": False}


@pytest.fixture(scope="module")
def base(cluster):
    """The address of the application, which :func:`deploy` puts there."""
    from ray import serve

    port = serve.context._get_global_client().http_config.port
    return f"http://127.0.0.1:{port}{PREFIX}"


def deploy(settings=(), **options):
    """Deploy, and return once as many replicas run as were asked for."""
    from ray import serve

    from deploy.ray.application import Replica

    asked = {**SETTINGS, **dict(settings)}, options
    if [asked] != deployed:
        actor = {"num_cpus": 1, "runtime_env": {"env_vars": asked[0]}}
        given = {"autoscaling_config": None, "health_check_period_s": 1, "ray_actor_options": actor, **options}
        serve.run(Replica.options(**given).bind(), route_prefix=PREFIX)
    deployed[:] = [asked]


deployed = []  # what was asked for last


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def replicas():
    """The actors of the replicas that run."""
    import ray

    listed = ray.util.list_named_actors(all_namespaces=True)
    return [one["name"] for one in listed if one["name"].startswith("SERVE_REPLICA::")]


def running():
    from ray import serve

    states = serve.status().applications["default"].deployments["lccl"].replica_states
    return states.get("RUNNING", 0)


async def until(condition, what):
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.2)


class Load:
    """Connections that ask all the time, and compare each answer with what is expected."""

    def __init__(self, base, images, expected, connections):
        self.outcomes, self._ask = Counter(), list(expected.items())
        self._base, self._images, self._connections = base, images, connections

    async def __aenter__(self):
        self._going = True
        self._client = httpx.AsyncClient(headers=HEADERS, timeout=SOON_S, limits=httpx.Limits(max_connections=None))
        self._tasks = [asyncio.create_task(self._run(first)) for first in range(self._connections)]
        return self

    async def __aexit__(self, *_):
        self._going = False
        await asyncio.gather(*self._tasks)
        await self._client.aclose()

    async def _run(self, first):
        number = first
        while self._going:
            (image, query), right = self._ask[number % len(self._ask)]
            number += 1
            try:
                answer = await self._client.post(f"{self._base}/v1/classify{query}", content=self._images[image])
            except httpx.TransportError:
                self.outcomes["no answer"] += 1
                continue
            if answer.status_code == 200:
                self.outcomes["right" if answer.json()["predictions"] == right else "wrong"] += 1
            else:
                ours = answer.headers.get("content-type") == "application/problem+json"
                self.outcomes[f"{answer.status_code} of {'the service' if ours else 'Ray'}"] += 1

    async def more(self, answers=100):
        """Wait for as many right answers more."""
        goal = self.outcomes["right"] + answers
        await until(lambda: self.outcomes["right"] >= goal, f"right answers: {self.outcomes}")


def test_answers_are_those_of_the_service(base, images, expected):
    deploy(num_replicas=1)
    with httpx.Client(base_url=base, headers=HEADERS) as client:
        for (number, query), right in expected.items():
            answer = client.post(f"/v1/classify{query}", content=images[number])
            assert answer.json()["predictions"] == right
            assert answer.headers["x-request-id"] == answer.json()["request_id"]  # once
        named = client.post("/v1/classify", content=images[0], headers={"x-request-id": "mine"})
        assert named.headers["x-request-id"] == named.json()["request_id"] == "mine"
        assert (
            client.post("/v1/classify", content=images[0], headers={"x-lccl-sparsity": "0.3"}).json()[
                "operating_point"
            ]["sparsity"]
            == 0.3
        )
        tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [0] * 3072}
        inferred = client.post("/v2/models/resnet20-cifar10/infer", json={"inputs": [tensor]}).raise_for_status()
        assert {one["name"] for one in inferred.json()["outputs"]} >= {"label", "probabilities"}
        assert client.get("/health/ready").json() == {"status": "ready"}


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/classify", b"no image", {}, 415),
        ("/v1/classify", bytes(17 << 20), {}, 413),
        ("/v1/classify?sparsity=7", None, {}, 422),
        ("/v1/models/other/classify", None, {}, 404),
        ("/v1/classify", None, {"x-api-key": "guessed"}, 401),
        ("/v1/classify?deadline_ms=0.001", None, {}, 504),
        ("/v1/classify", None, {"host": "evil.example.com"}, 421),
    ],
)  # fmt: skip
def test_refusals_are_those_of_the_service(base, images, path, body, headers, status):
    deploy(num_replicas=1)
    refused = httpx.post(f"{base}{path}", content=images[0] if body is None else body, headers={**HEADERS, **headers})
    assert refused.status_code == status
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["status"] == status
    assert refused.json()["request_id"] == refused.headers["x-request-id"]
    assert ("www-authenticate" in refused.headers) == (status == 401)


def test_a_rate_limits_retry_after_comes_through(base, images):
    deploy({"LCCL_RATE_LIMIT": "2/minute"}, num_replicas=1)
    answers = [httpx.post(f"{base}/v1/classify", content=images[0], headers=HEADERS) for _ in range(3)]
    assert [one.status_code for one in answers] == [200, 200, 429]
    assert answers[2].json()["code"] == "rate_limited"
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60


def test_what_ray_keeps_is_refused_at_the_start(cluster):
    from lccl.service.errors import StartError

    from deploy.ray.application import own_settings

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LCCL_GRPC_PORT", "9000")
        with pytest.raises(StartError, match="gRPC is not offered under Ray"):
            own_settings()


def scrape(base):
    """The sum over all replicas of each metric with its labels."""
    addresses = [one for group in httpx.get(f"{base}/metrics/targets").json() for one in group["targets"]]
    sums = Counter()
    for address in addresses:
        text = httpx.get(f"http://{address}/metrics").text
        for name, value in re.findall(r"^(lccl_[^ ]+) (\S+)$", text, re.MULTILINE):
            sums[name] += float(value)
    return len(addresses), sums


def test_metrics_of_all_replicas_add_up(base, images, expected):
    deploy({"LCCL_MAX_IMAGES": "63"}, num_replicas=NODES)  # replicas that have counted nothing yet
    asyncio.run(until(lambda: scrape(base)[0] == NODES, "targets"))

    async def ask():
        async with Load(base, images, expected, 12) as load:
            await load.more(300)
        return load.outcomes

    outcomes = asyncio.run(ask())
    assert set(outcomes) == {"right"}
    count, sums = scrape(base)
    assert count == NODES
    answered = sum(
        value
        for name, value in sums.items()
        if name.startswith("lccl_request_duration_seconds_count{")
        and 'route="/v1/classify"' in name
        and 'code="200"' in name
    )
    assert answered == outcomes["right"]
    elsewhere = httpx.get(f"{base}/metrics")
    assert elsewhere.status_code == 404
    assert "/metrics/targets" in elsewhere.json()["detail"]


def test_a_client_that_leaves_takes_its_request_along(base):
    deploy(num_replicas=1)
    large = png(0, 2000)
    host, port = base.removeprefix("http://").removesuffix(PREFIX).split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            f"POST {PREFIX}/v1/classify HTTP/1.1\r\nhost: localhost\r\nx-api-key: {KEY}\r\ncontent-type: image/png\r\n"
            f"content-length: {len(large)}\r\n\r\n".encode()
            + large[: len(large) // 2]
        )
        time.sleep(0.5)

    counted = 'lccl_request_duration_seconds_count{code="499",model="resnet20-cifar10",route="/v1/classify"}'

    def left():
        return scrape(base)[1][counted]

    asyncio.run(until(left, "a request counted as left by its client"))
    assert scrape(base)[1]["lccl_inflight_requests"] == 0


def test_a_killed_replica_gives_no_wrong_answer(base, images, expected):
    import ray

    async def kill():
        async with Load(base, images, expected, 8) as load:
            await load.more()
            ray.kill(ray.get_actor(replicas()[0], namespace="serve"))
            await load.more()
            await until(lambda: running() == NODES, "the replica comes back")
            before = +load.outcomes
            await load.more()
        return before, load.outcomes

    deploy(num_replicas=NODES)
    before, after = asyncio.run(kill())
    assert set(after) <= {"right"} | LOST
    assert after.total() - after["right"] <= 2 * 8  # those under way there, and perhaps a second time
    assert {outcome: after[outcome] for outcome in LOST} == {outcome: before[outcome] for outcome in LOST}


def test_a_lost_node_gives_no_wrong_answer(cluster, base, images, expected):
    async def lose():
        async with Load(base, images, expected, 8) as load:
            await load.more()
            await asyncio.to_thread(cluster.remove_node, cluster.replicas.pop(), allow_graceful=False)
            await load.more()
            cluster.replicas.append(cluster.add_node(num_cpus=1, **SMALL))
            await until(lambda: running() == NODES, "the replica comes back on another node")
            await load.more()
        return load.outcomes

    deploy(num_replicas=NODES)
    outcomes = asyncio.run(lose())
    assert set(outcomes) <= {"right"} | LOST
    assert outcomes.total() - outcomes["right"] <= 2 * 8


def test_replicas_follow_the_load_and_lose_nothing(base, images, expected):
    async def scale():
        async with Load(base, images, expected, 12) as load:
            await until(lambda: running() > 1, "more replicas")
            await load.more()
        assert set(load.outcomes) == {"right"}
        async with Load(base, images, expected, 1) as load:
            await until(lambda: running() == 1, "fewer replicas")
            await load.more()
        assert set(load.outcomes) == {"right"}

    policy = {"policy_function": "deploy.ray.scaling:OngoingAndWait", "policy_kwargs": {"wait_s": 0.025}}
    deploy(
        autoscaling_config={
            "min_replicas": 1, "max_replicas": NODES, "target_ongoing_requests": 1, "look_back_period_s": 2,
            "metrics_interval_s": 0.5, "upscale_delay_s": 1, "downscale_delay_s": 2, "policy": policy,
        }
    )  # fmt: skip
    asyncio.run(scale())


def test_an_update_rolls_over_under_load(base, images, expected):
    async def update():
        async with Load(base, images, expected, 4) as load:
            old = set(replicas())
            await asyncio.to_thread(deploy, {"LCCL_MAX_IMAGES": "62"}, num_replicas=2)
            await until(lambda: running() == 2 and not old & set(replicas()), "new replicas")
            await load.more()
        return load.outcomes

    deploy(num_replicas=2)
    assert set(asyncio.run(update())) == {"right"}


def test_a_replica_that_is_not_ready_is_replaced(base, images, expected, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(small_alone(), models)
    deploy({"LCCL_MODELS": str(models), "LCCL_WATCH_MODELS_S": "0.5"}, num_replicas=1)
    old = replicas()
    (models / "resnet20-cifar10").rename(tmp_path / "away")
    asyncio.run(until(lambda: not set(old) & set(replicas()), "Ray stops the replica"))
    (tmp_path / "away").rename(models / "resnet20-cifar10")
    asyncio.run(until(lambda: running() == 1, "another one runs"))
    answer = httpx.post(f"{base}/v1/classify", content=images[0], headers=HEADERS)
    assert answer.json()["predictions"] == expected[0, ""]
