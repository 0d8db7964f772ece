"""Around every call: keys and rates, cancellation, memory, admission, tracing, the log, and the end of the server."""

from __future__ import annotations

import asyncio
import logging
import threading

import grpc
import pytest

from service.api.exchange import PROMPT_S, BodyMemory
from service.api.grpc import messages
from service.api.grpc.calls import SERVICE, _address
from tests.service.api.grpc.conftest import address_of, ask, connected, refused
from tests.service.engines import Gated, wait_for
from tests.service.refusals import refused as refused_here

INFER = f"/{SERVICE}/ModelInfer"


@pytest.fixture(scope="module")
def image(draw_image):
    return draw_image()


def metric(client, series):
    found = [line for line in client.get("/metrics").text.splitlines() if line.startswith(series + " ")]
    return float(found[0].split()[1]) if found else 0.0


def rejected(client, reason, model="small"):
    return metric(client, f'lccl_rejected_total{{model="{model}",reason="{reason}"}}')


def held(client):
    """A device that waits, and how many images wait for it."""
    state = client.app.state
    model = state.registry.find("small")
    model.engine = Gated(model.engine)
    return model.engine, lambda: state.batcher.depth(model.key)


def test_keys_in_metadata(serve, three, image):
    with serve(api_keys=three, grpc_port=0) as client, connected(client) as rpc:
        assert rpc.ServerLive(messages.ServerLiveRequest()).live
        assert rpc.ServerReady(messages.ServerReadyRequest()).ready
        for call, sent in (
            (rpc.ModelInfer, ask([image])),
            (rpc.ModelReady, messages.ModelReadyRequest(name="small")),
            (rpc.ServerMetadata, messages.ServerMetadataRequest()),
            (rpc.RepositoryModelLoad, messages.RepositoryModelLoadRequest(model_name="small")),
        ):
            for metadata in ((), [("x-api-key", "wrong")], [("authorization", "Basic one")]):
                with refused("UNAUTHENTICATED", "unauthorised", "API key"):
                    call(sent, metadata=metadata)
        for metadata in ([("x-api-key", "one")], [("authorization", "Bearer one")]):
            assert rpc.ModelInfer(ask([image]), metadata=metadata).outputs
            with refused("PERMISSION_DENIED", "forbidden", "'one'"):
                rpc.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name="small"), metadata=metadata)
        assert rejected(client, "unauthorised", "") == 12


def test_a_callers_rate_holds_for_both_protocols_together(serve, image):
    with serve(rate_limit="4/hour", grpc_port=0) as client, connected(client) as rpc:
        png = {"Content-Type": "image/png"}
        for _ in range(2):
            assert client.post("/v1/classify", content=image, headers=png).status_code == 200
            assert rpc.ModelInfer(ask([image])).outputs
        assert client.post("/v1/classify", content=image, headers=png).status_code == 429
        with refused("RESOURCE_EXHAUSTED", "rate_limited", "4 requests in 3600 s") as after:
            rpc.ModelInfer(ask([image]))
        assert 3000 < after[0] <= 3600


def test_behind_a_trusted_proxy_the_client_is_whom_it_names(serve, image):
    with serve(rate_limit="1/hour", trusted_proxies="127.0.0.1", grpc_port=0) as client, connected(client) as rpc:
        for host in ("10.0.0.1", "10.0.0.2"):
            assert rpc.ModelInfer(ask([image]), metadata=[("x-forwarded-for", host)]).outputs
        with refused("RESOURCE_EXHAUSTED", "rate_limited"):
            rpc.ModelInfer(ask([image]), metadata=[("x-forwarded-for", "10.0.0.2")])


@pytest.mark.parametrize(("peer", "address"), [
    ("ipv4:127.0.0.1:80", ("127.0.0.1", 80)), ("ipv6:%5B::1%5D:80", ("::1", 80)), ("unix:/tmp/x", None), ("", None),
])  # fmt: skip
def test_addresses(peer, address):
    assert _address(peer) == address


@pytest.mark.parametrize("how", ["client_gone", "timeout"])
def test_a_call_that_ends_leaves_the_queue(serve, image, how):
    with serve(grpc_port=0, self_test_interval_s=600, compute_streams=1) as client, connected(client) as rpc:
        engine, waiting = held(client)
        first = rpc.ModelInfer.future(ask([image]))
        wait_for(lambda: engine.entered == 1)
        limit = {"timeout": 1.0} if how == "timeout" else {}
        others = [rpc.ModelInfer.future(ask([image] * 3, operating_point="exact"), **limit) for _ in range(4)]
        wait_for(lambda: waiting() == 12)
        if how == "client_gone":
            for one in others:
                one.cancel()
        wait_for(lambda: rejected(client, how) == 4)
        wait_for(lambda: metric(client, "lccl_inflight_requests") == 2)  # the first, and the question itself
        engine.go.set()
        assert first.result(20).outputs
        wait_for(lambda: waiting() == 0)
        assert engine.ran == [1]
        assert client.app.state.bodies._held == 0


def test_more_than_can_be_answered_is_refused_with_when_to_try_again(serve, image):
    limits = {"queue_limit": 8, "max_images": 8, "self_test_interval_s": 600, "compute_streams": 1}
    with serve(grpc_port=0, **limits) as client, connected(client) as rpc:
        engine, _ = held(client)
        first = rpc.ModelInfer.future(ask([image]))
        wait_for(lambda: engine.entered == 1)
        calls = [rpc.ModelInfer.future(ask([image])) for _ in range(40)]
        wait_for(lambda: sum(call.done() for call in calls) >= 30)
        full = [call for call in calls if call.done()]
        with refused("RESOURCE_EXHAUSTED", "overloaded") as after:
            full[0].result()
        assert after[0] >= 1
        assert client.get("/health/ready").status_code == 200
        engine.go.set()
        done = [call.exception(20) for call in [first, *calls]]
        assert sum(error is None for error in done) >= 5
        assert rejected(client, "overloaded") == sum(error is not None for error in done)


def test_admission_counts_calls_as_requests_over_http(serve, image):
    """With the most under way that is answered in time, a client's next call, or request, is refused at once."""
    with serve(grpc_port=0, queue_limit=64, self_test_interval_s=600, compute_streams=1) as client:
        admission = client.app.state.admission
        admission._most, admission._least = (lambda _: 6), 6
        with connected(client) as rpc:
            engine, _ = held(client)
            calls = [rpc.ModelInfer.future(ask([image])) for _ in range(6)]
            wait_for(lambda: len(admission._new) + len(admission._known) == 6)
            with refused("RESOURCE_EXHAUSTED", "overloaded", "more requests arrive") as after:
                rpc.ModelInfer(ask([image]))
            assert after
            over = client.post("/v1/models/small/classify", content=image, headers={"Content-Type": "image/png"})
            assert over.status_code == 429
            engine.go.set()
            assert all(call.result(20).outputs for call in calls)
            wait_for(lambda: not (admission._new or admission._known))


async def slow(body, seconds):
    await asyncio.sleep(seconds)
    return body


def test_bodies_count_while_they_are_received_and_held():
    async def main():
        bodies = BodyMemory(per_body=100, together=300)
        async with bodies.receive("a", slow(b"x" * 40, 0)) as body:
            assert (len(body), bodies._held) == (40, 40)
        receiving = bodies.receive("a", slow(b"x" * 40, 3 * PROMPT_S))
        entering = asyncio.ensure_future(receiving.__aenter__())
        await asyncio.sleep(2 * PROMPT_S)
        assert bodies._held == 100  # as many as it may become
        await entering
        assert bodies._held == 40
        await receiving.__aexit__(None, None, None)
        assert bodies._held == 0
        with refused_here("too_large"):
            await bodies.receive("a", slow(b"x" * 101, 0)).__aenter__()
        many = [asyncio.ensure_future(bodies.receive("a", slow(b"", 9)).__aenter__()) for _ in range(4)]
        done, pending = await asyncio.wait(many, timeout=4 * PROMPT_S)
        assert done
        for one in done:
            with refused_here("overloaded"):
                one.result()
        for one in pending:
            one.cancel()
        await asyncio.wait(many)
        assert bodies._held == 0

    asyncio.run(main())


def test_a_message_that_does_not_come_is_too_slow(serve):
    with serve(grpc_port=0, request_timeout_s=0.4, self_test_interval_s=600) as client:
        with grpc.insecure_channel(address_of(client)) as channel:
            never = threading.Event()

            def nothing():
                never.wait(20)
                yield b""

            with refused("DEADLINE_EXCEEDED", "too_slow"):
                channel.stream_unary(INFER)(nothing())
            never.set()
        assert rejected(client, "too_slow", "") == 1


def test_a_call_without_a_message_is_malformed(client):
    with (
        grpc.insecure_channel(address_of(client)) as channel,
        refused("INVALID_ARGUMENT", "malformed", "without a message"),
    ):
        channel.stream_unary(INFER)(iter(()))


def test_a_message_over_the_limit_is_counted(client, rpc):
    before = rejected(client, "client_gone", "")
    with pytest.raises(grpc.RpcError):
        rpc.ModelInfer(ask([bytes(2 << 20)]))
    wait_for(lambda: rejected(client, "client_gone", "") == before + 1)


def test_unknown_methods_are_unimplemented(client):
    with grpc.insecure_channel(address_of(client)) as channel:
        for path in (f"/{SERVICE}/ModelStreamInfer", "/other.Service/Method"):
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(path)(b"")
            assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_log_has_a_line_for_each_call(client, rpc, image, caplog):
    with caplog.at_level(logging.INFO, "service.access"):
        rpc.ModelInfer(ask([image]), metadata=[("x-request-id", "r-9")])
        wait_for(lambda: any(getattr(one, "request_id", "") == "r-9" for one in caplog.records))
    (record,) = (one for one in caplog.records if getattr(one, "request_id", "") == "r-9")
    assert (record.route, record.model, record.status, record.caller) == (INFER, "small", 200, "127.0.0.1")


def test_sigterm_ends_it_as_it_ends_http(serve, image):
    with (
        serve(grpc_port=0, self_test_interval_s=600, compute_streams=1, drain_timeout_s=20) as client,
        connected(client) as rpc,
        connected(client) as late,
    ):
        engine, waiting = held(client)
        running = [rpc.ModelInfer.future(ask([image]))]
        wait_for(lambda: engine.entered == 1)
        running += [rpc.ModelInfer.future(ask([image])) for _ in range(2)]
        assert late.ServerLive(messages.ServerLiveRequest()).live
        wait_for(lambda: waiting() == 2)
        client.stop()
        wait_for(lambda: status_of(late) is grpc.StatusCode.UNAVAILABLE)
        assert not any(call.done() for call in running)
        engine.go.set()
        assert all(call.result(20).outputs for call in running)
        wait_for(lambda: not client.thread.is_alive())


def status_of(rpc):
    call = rpc.ServerLive.future(messages.ServerLiveRequest(), timeout=5)
    call.exception()
    return call.code()
