"""The Open Inference Protocol over a real socket: asked by Triton's clients as they are, and by hand."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from lccl.bundle.format import save
from lccl.preprocessing import Preprocessing
from service.inference.decode import decode

PREPROCESSING = Preprocessing(32, 32, (0.5, 0.5, 0.4), (0.25, 0.2, 0.3))  # of the test models
ADMIN, USER = "lccl_admin_key", "lccl_user_key"
OUTPUTS = ["logits", "probabilities", "index", "label", "skip_ratio", "macs"]


def client_for(client):
    return triton.InferenceServerClient(f"{client.base_url.host}:{client.base_url.port}")


@pytest.fixture
def asked(client):
    """Triton's client, connected to the shared server."""
    with client_for(client) as connected:
        yield connected


def tensor(name, values, binary=True):
    datatype = {"image": "BYTES", "pixels": "UINT8", "normalised": "FP32"}[name]
    given = triton.InferInput(name, list(values.shape), datatype)
    return given.set_data_from_numpy(values, binary_data=binary)


def images(*encoded, text=False):
    values = np.empty(len(encoded), dtype=np.object_)
    values[:] = [base64.b64encode(one) if text else one for one in encoded]
    return tensor("image", values, not text)


def inputs_of(name, binary, encoded):
    """The same encoded in each of the forms that a model takes."""
    if name == "image":
        return images(*encoded, text=not binary)
    pixels = np.stack([decode(one, PREPROCESSING, 10**6) for one in encoded])
    if name == "pixels":
        return tensor("pixels", pixels, binary)
    mean, deviation = np.array(PREPROCESSING.mean), np.array(PREPROCESSING.std)
    return tensor("normalised", ((pixels / 255 - mean) / deviation).astype(np.float32), binary)


def refused(status, text, function, *args, **kwargs):
    with pytest.raises(InferenceServerException, match=text) as error:
        function(*args, **kwargs)
    assert error.value.status() == str(status)


def test_health(asked):
    assert asked.is_server_live()
    assert asked.is_server_ready()
    assert asked.is_model_ready("small")
    assert asked.is_model_ready("small", "1")
    assert not asked.is_model_ready("small", "2")
    assert not asked.is_model_ready("nobody")


def test_metadata(asked):
    server = asked.get_server_metadata()
    assert server["name"] == "lccl"
    assert {"binary_tensor_data", "classification", "model_repository"} <= set(server["extensions"])
    model = asked.get_model_metadata("small")
    assert model == asked.get_model_metadata("small", "1")
    assert (model["name"], model["versions"], model["platform"]) == ("small", ["1"], "lccl_cpu")
    assert [(one["name"], one["datatype"], one["shape"]) for one in model["inputs"]] == [
        ("image", "BYTES", [-1]), ("pixels", "UINT8", [-1, 32, 32, 3]), ("normalised", "FP32", [-1, 32, 32, 3]),
    ]  # fmt: skip
    assert [(one["name"], one["datatype"], one["shape"]) for one in model["outputs"]] == [
        ("logits", "FP32", [-1, 10]), ("probabilities", "FP32", [-1, 10]), ("index", "INT64", [-1]),
        ("label", "BYTES", [-1]), ("skip_ratio", "FP32", [-1]), ("macs", "INT64", [-1, 3]),
    ]  # fmt: skip
    refused(404, "nobody", asked.get_model_metadata, "nobody")
    refused(404, "no version '7'; there is 1", asked.get_model_metadata, "small", "7")


def test_configuration(asked):
    config = asked.get_model_config("small")
    assert config == asked.get_model_config("small", "1")
    assert (config["name"], config["platform"], config["max_batch_size"]) == ("small", "lccl_cpu", 8)
    assert config["version_policy"] == {"specific": {"versions": ["1"]}}
    assert [(one["name"], one["data_type"], one["dims"], one["optional"]) for one in config["input"]] == [
        ("image", "TYPE_STRING", [], True),
        ("pixels", "TYPE_UINT8", [32, 32, 3], True),
        ("normalised", "TYPE_FP32", [32, 32, 3], True),
    ]
    assert [(one["name"], one["dims"]) for one in config["output"]][:2] == [("logits", [10]), ("probabilities", [10])]
    assert config["parameters"]["operating_points"] == {"string_value": "exact,p25,p40,p60"}
    assert config["parameters"]["sparsity_max"] == {"string_value": "0.6"}


@pytest.mark.parametrize("answered", ["binary", "json", "as it comes"])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("name", ["image", "pixels", "normalised"])
def test_every_form_gives_what_v1_gives(client, asked, draw_image, name, binary, answered):
    encoded = [draw_image(seed=seed) for seed in range(3)]
    files = [("file", one) for one in encoded]
    v1 = client.post("/v1/models/small/classify", files=files, params={"sparsity": 0.3, "top_k": 10}).json()
    outputs = [triton.InferRequestedOutput(one, binary_data=answered == "binary") for one in OUTPUTS]
    result = asked.infer(
        "small", [inputs_of(name, binary, encoded)], "1", request_id="a-7", parameters={"sparsity": 0.3},
        outputs=None if answered == "as it comes" else outputs,
    )  # fmt: skip
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("a-7", "small", "1")
    found = {one: result.as_numpy(one) for one in OUTPUTS}
    assert found["logits"].shape == found["probabilities"].shape == (3, 10)
    assert found["macs"].shape == (3, 3)
    for row, prediction in enumerate(v1["predictions"]):
        best = prediction["classes"][0]
        label = found["label"][row]
        assert (label.decode() if isinstance(label, bytes) else label) == best["label"]
        assert found["index"][row] == best["index"] == found["logits"][row].argmax()
        expected = [one["probability"] for one in sorted(prediction["classes"], key=lambda one: one["index"])]
        assert found["probabilities"][row] == pytest.approx(expected, rel=1e-3)
        assert found["skip_ratio"][row] == pytest.approx(prediction["skip_ratio"], abs=2e-3)
        macs = [prediction["macs"][kind] for kind in ("dense", "gated", "executed")]
        assert found["macs"][row] == pytest.approx(macs, rel=2e-3)


def test_only_the_outputs_asked_for_are_given_in_their_order(asked, draw_image):
    outputs = [triton.InferRequestedOutput("macs"), triton.InferRequestedOutput("index", binary_data=False)]
    response = asked.infer("small", [images(draw_image())], outputs=outputs).get_response()
    assert [one["name"] for one in response["outputs"]] == ["macs", "index"]
    assert [sorted(one) for one in response["outputs"]] == [
        ["datatype", "name", "parameters", "shape"], ["data", "datatype", "name", "shape"],
    ]  # fmt: skip
    assert "id" not in response


@pytest.mark.parametrize("binary", [True, False])
def test_classification(asked, draw_image, binary):
    outputs = [
        triton.InferRequestedOutput("probabilities", binary, class_count=3),
        triton.InferRequestedOutput("logits", binary, class_count=99),
        triton.InferRequestedOutput("index", binary),
    ]
    result = asked.infer("small", [images(draw_image(seed=1), draw_image(seed=2))], outputs=outputs)
    best, all_of_them = result.as_numpy("probabilities"), result.as_numpy("logits")
    assert best.shape == (2, 3)
    assert all_of_them.shape == (2, 10)
    for row in range(2):
        texts = [one.decode() if isinstance(one, bytes) else one for one in best[row]]
        parts = [one.split(":") for one in texts]
        assert parts[0][1] == str(result.as_numpy("index")[row])
        assert [f"class{index}" for _, index, _ in parts] == [label for _, _, label in parts]
        values = [float(value) for value, _, _ in parts]
        assert values == sorted(values, reverse=True)


def test_the_wish_comes_as_parameters_or_headers(asked, draw_image):
    given = [images(draw_image())]
    told = asked.infer("small", given).get_response()["parameters"]
    assert told["operating_point"] == "exact"
    assert told["downgraded"] is False
    by_name = asked.infer("small", given, parameters={"operating_point": "p40"}).get_response()["parameters"]
    assert by_name["operating_point"] == "p40"
    assert by_name["expected_accuracy_drop"] == pytest.approx(8.0)
    accuracies = [by_name[f"expected_accuracy{end}"] for end in ("_low", "", "_high")]
    assert accuracies == pytest.approx([0.81, 0.82, 0.83])
    between = asked.infer("small", given, headers={"X-LCCL-Sparsity": "0.3"}).get_response()["parameters"]
    assert "operating_point" not in between
    assert between["sparsity"] == 0.3
    assert between == asked.infer("small", given, parameters={"sparsity": "0.3"}).get_response()["parameters"]
    assert (
        asked.infer("small", given, parameters={"max_accuracy_drop": 3}).get_response()["parameters"]
        == (asked.infer("small", given, headers={"X-LCCL-Operating-Point": "p25"}).get_response()["parameters"])
    )
    within = asked.infer("small", given, headers={"X-LCCL-Deadline-Ms": "5000"}).get_response()["parameters"]
    assert within["operating_point"] == "exact"
    assert all(isinstance(value, str | int | float | bool) for value in (by_name | between).values())


def test_bad_wishes_are_the_clients_exceptions(asked, draw_image):
    given = [images(draw_image())]
    both = {"parameters": {"sparsity": 0.3}, "headers": {"X-LCCL-Sparsity": "0.3"}}
    refused(422, "sparsity is given twice", asked.infer, "small", given, **both)
    refused(422, "'sparsty'", asked.infer, "small", given, parameters={"sparsty": 0.3})
    refused(422, "two targets", asked.infer, "small", given, parameters={"sparsity": 0.3, "operating_point": "exact"})
    refused(422, "0.100 to 0.600", asked.infer, "small", given, parameters={"sparsity": 0.9})
    refused(422, "not true or false", asked.infer, "small", given, parameters={"sparsity": True})
    refused(422, "X-LCCL-", asked.infer, "small", given, headers={"X-LCCL-Sparsty": "0.3"})
    refused(422, "set classification", asked.infer, "small", given, query_params={"top_k": 3})
    refused(504, "deadline", asked.infer, "small", given, parameters={"deadline_ms": 0.001})
    assert asked.infer("small", given).as_numpy("index").shape == (1,)


def test_bad_requests_are_the_clients_exceptions(asked, draw_image):
    good = images(draw_image())
    refused(404, "nobody", asked.infer, "nobody", [good])
    refused(404, "no version", asked.infer, "small", [good], "2")
    unknown = [triton.InferRequestedOutput("embedding")]
    refused(400, "there are logits, probabilities, index", asked.infer, "small", [good], outputs=unknown)
    refused(400, "2 inputs: send exactly one", asked.infer, "small", [good, good])
    refused(400, "FP64", asked.infer, "small", [triton.InferInput("pixels", [1, 32, 32, 3], "FP64")])
    refused(400, "32, 32, 3", asked.infer, "small", [tensor("pixels", np.zeros((1, 224, 224, 3), np.uint8))])
    nan = np.full((1, 32, 32, 3), np.nan, np.float32)
    refused(422, "send finite numbers", asked.infer, "small", [tensor("normalised", nan)])
    refused(413, "at most 8", asked.infer, "small", [images(*[draw_image()] * 9)])
    refused(413, "more than 1,048,576 bytes", asked.infer, "small", [images(b"\0" * (1 << 20))])
    classified = [triton.InferRequestedOutput("macs", class_count=2)]
    refused(422, "not classified", asked.infer, "small", [good], outputs=classified)
    assert asked.infer("small", [good]).as_numpy("index").shape == (1,)


def test_a_bad_image_among_several_is_the_requests_error_and_is_named(asked, draw_image):
    refused(415, "element 1: not an image", asked.infer, "small", [images(draw_image(), b"no image", draw_image())])
    refused(415, "element 0: not an image", asked.infer, "small", [images(b"no", b"neither")])
    refused(400, "element 2: ", asked.infer, "small", [images(draw_image(), draw_image(), draw_image()[:200])])
    refused(
        413, "element 1: .* pixels", asked.infer, "small", [images(draw_image(), draw_image("JPEG", size=(1001, 1000)))]
    )


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_refused_and_compressed_answers_not_given(asked, draw_image, algorithm):
    given = [images(draw_image())]
    refused(415, "compressed", asked.infer, "small", given, request_compression_algorithm=algorithm)
    plain = asked.infer("small", given, response_compression_algorithm=algorithm)
    assert plain.as_numpy("index").shape == (1,)


def test_an_answer_not_waited_for_comes_later(asked, draw_image):
    requests = [asked.async_infer("small", [images(draw_image(seed=seed))], request_id=str(seed)) for seed in range(3)]
    assert [one.get_result().get_response()["id"] for one in requests] == ["0", "1", "2"]


def test_tritons_asyncio_client(client, draw_image):
    async def ask():
        url = f"{client.base_url.host}:{client.base_url.port}"
        async with triton_aio.InferenceServerClient(url) as connected:
            assert await connected.is_server_live()
            assert await connected.is_server_ready()
            assert await connected.is_model_ready("small")
            assert (await connected.get_model_metadata("small"))["name"] == "small"
            given = [images(draw_image(seed=seed)) for seed in range(4)]
            asked = [connected.infer("small", [one], parameters={"sparsity": 0.4}) for one in given]
            for result in await asyncio.gather(*asked):
                assert result.get_response()["parameters"]["operating_point"] == "p40"
                assert result.as_numpy("probabilities").sum() == pytest.approx(1, abs=1e-4)
            with pytest.raises(InferenceServerException, match="nobody"):
                await connected.infer("nobody", given[:1])

    asyncio.run(ask())


def infer(client, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body)
    return client.post("/v2/models/small/infer", content=content, headers=headers)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/models/nobody", 404, "unknown_model"),
        ("GET", "/v2/nothing", 404, "not_found"),
        ("GET", "/v2/models/small/infer", 405, "method_not_allowed"),
        ("POST", "/v2/models/small/infer", 400, "malformed"),
        ("POST", "/v2/models/nobody/versions/1/infer", 404, "unknown_model"),
        ("POST", "/v2/repository/models/small/load", 403, "forbidden"),
    ],
)
def test_errors_have_the_protocols_form_and_the_problems_fields(client, method, path, status, code):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["error"] == body["detail"] != ""
    assert body["request_id"] == answer.headers["X-Request-ID"]


def test_errors_elsewhere_keep_their_form(client):
    for path in ("/v1/models/nobody", "/v2x", "/nothing"):
        answer = client.get(path)
        assert answer.headers["content-type"] == "application/problem+json"
        assert "error" not in answer.json()


def test_the_documentation_names_what_a_path_takes(client):
    paths = client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        if path.startswith("/v2/"):
            (operation,) = operations.values()
            told = {one["name"] for one in operation.get("parameters", []) if one["in"] == "path"}
            assert told == {part[1:-1] for part in path.split("/") if part.startswith("{")}
    assert "requestBody" in paths["/v2/models/{model}/versions/{version}/infer"]["post"]


def test_a_long_body_is_read_and_a_long_answer_written_beside_the_event_loop(client, monkeypatch):
    monkeypatch.setattr("service.api.v2.infer.INLINE_NUMBERS", 10)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3))
    tensors = [{"name": "pixels", "datatype": "UINT8", "shape": pixels.shape, "data": pixels.tolist()}]
    answer = infer(client, {"inputs": tensors, "outputs": [{"name": "index"}]})
    assert answer.status_code == 200
    assert len(answer.json()["outputs"][0]["data"]) == 8


@pytest.fixture
def versioned(serve, random_bundle, tmp_path):
    """A server with two versions of one model, and keys of which one is an administrator's."""
    for version in ("2", "10"):
        save(random_bundle(), tmp_path / "models" / "many" / version)
    keys = tmp_path / "keys.toml"
    hashes = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in (("boss", ADMIN), ("guest", USER))}
    keys.write_text(
        f'[keys.boss]\nsha256 = "{hashes["boss"]}"\nadmin = true\n[keys.guest]\nsha256 = "{hashes["guest"]}"\n'
    )
    with serve(models=tmp_path / "models", api_keys=keys) as client, client_for(client) as asked:
        yield client, asked


def test_versions_are_listed_loaded_and_unloaded(versioned, draw_image, tmp_path):
    _, asked = versioned
    admin, user = {"X-API-Key": ADMIN}, {"X-API-Key": USER}
    given = [images(draw_image())]

    def states():
        return {one["version"]: one["state"] for one in asked.get_model_repository_index(headers=user)}

    def served(version=""):
        return asked.infer("many", given, version, headers=dict(user)).get_response()["model_version"]

    assert states() == {"2": "READY", "10": "READY"}
    assert asked.get_model_metadata("many", headers=user)["versions"] == ["2", "10"]
    assert (served(), served("2")) == ("10", "2")
    for forbidden in (asked.load_model, asked.unload_model):
        refused(403, "admin", forbidden, "many", headers=user)
        refused(401, "key", forbidden, "many")
    asked.unload_model("many", headers=admin, query_params={"version": "10"})
    assert states() == {"2": "READY", "10": "UNAVAILABLE"}
    assert served() == "2"
    assert not asked.is_model_ready("many", "10", headers=user)
    refused(404, "no version '10'", served, "10")
    asked.unload_model("many", headers=admin)
    assert not asked.is_model_ready("many", headers=user)
    assert not asked.is_server_ready()
    refused(404, "not loaded", asked.unload_model, "many", headers=admin)
    refused(404, "has no 'few'", asked.load_model, "few", headers=admin)
    asked.load_model("many", headers=admin)
    assert states() == {"2": "READY", "10": "READY"}
    assert served() == "10"
    (tmp_path / "models" / "many" / "10" / "model.safetensors").write_bytes(b"damaged")
    refused(422, "model.safetensors", asked.load_model, "many", headers=admin, query_params={"version": "10"})
    assert served() == "10"


def test_a_repository_request_names_its_version_once_and_overrides_nothing(versioned):
    client, asked = versioned
    admin = {"X-API-Key": ADMIN}
    refused(400, "config", asked.load_model, "many", headers=admin, config="{}")
    path, version = "/v2/repository/models/many/unload", {"parameters": {"version": "2"}}
    twice = client.post(f"{path}?version=2", json=version, headers=admin)
    assert (twice.status_code, twice.json()["code"]) == (422, "invalid_field")
    for query in ("version=2&version=10", "versoin=2"):
        assert client.post(f"{path}?{query}", headers=admin).status_code == 422
    once = client.post(path, json=version, headers=admin)
    assert (once.status_code, once.content) == (200, b"")
    assert client.post("/v2/repository/index", content=b"[" * 100_000, headers=admin).status_code == 413
    ready = client.post("/v2/repository/index", json={"ready": True}, headers=admin)
    assert ready.json() == [{"name": "many", "version": "10", "state": "READY", "reason": ""}]


def test_keys_are_asked_for_except_by_probes(versioned, draw_image):
    _, asked = versioned
    assert asked.is_server_live()
    assert asked.is_server_ready()
    assert not asked.is_model_ready("many")
    for function in (asked.get_server_metadata, asked.get_model_repository_index):
        refused(401, "key", function)
    refused(401, "key", asked.infer, "many", [images(draw_image())])
    bearer = {"Authorization": f"Bearer {USER}"}
    assert asked.infer("many", [images(draw_image())], headers=bearer).as_numpy("index").shape == (1,)
