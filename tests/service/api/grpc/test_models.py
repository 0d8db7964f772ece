"""Readiness, descriptions, and models that are loaded and unloaded over gRPC; the standard services beside it."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tritonclient.utils import InferenceServerException

from lccl.bundle.format import save
from service.api.grpc import messages, standard
from service.api.grpc.calls import SERVICE
from tests.conftest import random_bundle
from tests.service.api.grpc.conftest import address_of, ask, connected, refused
from tests.service.engines import wait_for

BOSS = [("x-api-key", "boss")]
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def test_tritons_client_asks_for_all_there_is(asked, client):
    assert asked.is_server_live()
    assert asked.is_server_ready()
    assert asked.is_model_ready("small")
    assert asked.is_model_ready("small", "1")
    assert not asked.is_model_ready("small", "2")
    assert not asked.is_model_ready("nobody")
    server = asked.get_server_metadata(as_json=True)
    assert server == client.get("/v2").json()
    model = asked.get_model_metadata("small", as_json=True)
    same = client.get("/v2/models/small").json()
    assert {name: model[name] for name in ("name", "versions", "platform")} == {
        name: same[name] for name in ("name", "versions", "platform")
    }
    for kind in ("inputs", "outputs"):
        told = [(one["name"], one["datatype"], [int(size) for size in one["shape"]]) for one in model[kind]]
        assert told == [(one["name"], one["datatype"], one["shape"]) for one in same[kind]]
    with pytest.raises(InferenceServerException, match="no model 'nobody'"):
        asked.get_model_metadata("nobody")


def test_configuration(asked, client):
    told = asked.get_model_config("small").config
    same = client.get("/v2/models/small/config").json()
    assert (told.name, told.backend, told.max_batch_size) == ("small", "lccl", same["max_batch_size"])
    assert [(one.name, one.optional, list(one.dims)) for one in told.input] == [
        (one["name"], one["optional"], one["dims"]) for one in same["input"]
    ]
    assert list(told.version_policy.specific.versions) == [1]
    assert {name: {"string_value": one.string_value} for name, one in told.parameters.items()} == same["parameters"]


def test_the_configuration_of_a_version_that_is_no_number(serve, tmp_path):
    save(random_bundle(), tmp_path / "models" / "small" / "1.10")
    with serve(models=tmp_path / "models", grpc_port=0) as client, connected(client) as rpc:
        told = rpc.ModelConfig(messages.ModelConfigRequest(name="small")).config
        assert (told.name, told.HasField("version_policy")) == ("small", False)
        sent = messages.ModelMetadataRequest(name="small", version="1.10")
        assert list(rpc.ModelMetadata(sent).versions) == ["1.10"]


def test_models_are_loaded_and_unloaded_by_administrators(serve, tmp_path, three, draw_image):
    save(random_bundle(), tmp_path / "models" / "many" / "1")
    with serve(models=tmp_path / "models", api_keys=three, grpc_port=0) as client, connected(client) as rpc:
        save(random_bundle(), tmp_path / "models" / "many" / "2")

        def index(ready=False):
            answer = rpc.RepositoryIndex(messages.RepositoryIndexRequest(ready=ready), metadata=BOSS)
            return [(one.name, one.version, one.state) for one in answer.models]

        def version():
            return rpc.ModelInfer(ask([draw_image()], model="many"), metadata=BOSS).model_version

        def change(call, kind, **parameters):
            sent = kind(model_name="many")
            for name, value in parameters.items():
                sent.parameters[name].CopyFrom(messages.ModelRepositoryParameter(**value))
            call(sent, metadata=BOSS)

        load, unload = messages.RepositoryModelLoadRequest, messages.RepositoryModelUnloadRequest
        assert index() == [("many", "1", "READY"), ("many", "2", "UNAVAILABLE")]
        assert index(ready=True) == [("many", "1", "READY")]
        change(rpc.RepositoryModelLoad, load, version={"string_param": "2"})
        assert version() == "2"
        change(
            rpc.RepositoryModelUnload, unload, version={"string_param": "2"}, unload_dependents={"bool_param": False}
        )
        assert version() == "1"
        for bad in (
            {"config": {"string_param": "{}"}},
            {"version": {"int64_param": 2}},
            {"file:1": {"bytes_param": b""}},
        ):
            with refused("INVALID_ARGUMENT", "malformed"):
                change(rpc.RepositoryModelLoad, load, **bad)
        (tmp_path / "models" / "many" / "2" / "model.safetensors").write_bytes(b"damaged")
        with refused("FAILED_PRECONDITION", "bad_bundle", "model.safetensors"):
            change(rpc.RepositoryModelLoad, load, version={"string_param": "2"})
        assert version() == "1"
        with refused("NOT_FOUND", "unknown_model"):
            rpc.RepositoryModelLoad(load(model_name="nobody"), metadata=BOSS)
        change(rpc.RepositoryModelUnload, unload)
        assert not rpc.ServerReady(messages.ServerReadyRequest()).ready
        assert rpc.ServerLive(messages.ServerLiveRequest()).live


def test_the_standard_health_service(client):
    with grpc.insecure_channel(address_of(client)) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
        with pytest.raises(grpc.RpcError) as error:
            health.Check(health_pb2.HealthCheckRequest(service="other"))
        assert error.value.code() is grpc.StatusCode.NOT_FOUND


def test_who_watches_the_health_sees_the_server_end(serve, three):
    with serve(api_keys=three, grpc_port=0) as client, grpc.insecure_channel(address_of(client)) as channel:
        seen = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(seen).status == SERVING
        client.stop()
        assert next(seen).status == NOT_SERVING
        wait_for(lambda: not client.thread.is_alive())


def test_streams_that_everybody_may_open_are_limited(client, monkeypatch):
    monkeypatch.setattr(standard, "MOST", 2)
    with grpc.insecure_channel(address_of(client)) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        kept = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
        assert [next(one).status for one in kept] == [SERVING] * 2
        one_more = health.Watch(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.RpcError) as error:
            next(one_more)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for one in kept:
            one.cancel()


def reflect(channel, *requests):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    return list(stub.ServerReflectionInfo(iter(reflection_pb2.ServerReflectionRequest(**one) for one in requests)))


def test_reflection_tells_tools_what_is_served(client):
    with grpc.insecure_channel(address_of(client)) as channel:
        listed, found = reflect(channel, {"list_services": ""}, {"file_containing_symbol": SERVICE})
    assert SERVICE in [one.name for one in listed.list_services_response.service]
    described = FileDescriptorProto.FromString(found.file_descriptor_response.file_descriptor_proto[0])
    assert described.package == "inference"
    assert "ModelInfer" in [one.name for one in described.service[0].method]


def test_without_documentation_there_is_no_reflection(serve):
    with serve(docs=False, grpc_port=0) as client, grpc.insecure_channel(address_of(client)) as channel:
        with pytest.raises(grpc.RpcError) as error:
            reflect(channel, {"list_services": ""})
        assert error.value.code() is grpc.StatusCode.UNIMPLEMENTED
