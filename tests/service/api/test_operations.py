"""Health, metrics, documentation, metadata and logs of a served instance."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from service.api.operations import Scrapes
from service.everywhere import Everywhere
from service.telemetry.metrics import Metrics

PNG = {"Content-Type": "image/png"}


def samples(client):
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families for sample in family.samples
    }  # fmt: skip


def value(found, name, **labels):
    return found.get((name, tuple(sorted(labels.items()))), 0.0)


def test_health(client):
    assert client.get("/health/live").json() == {"status": "live"}
    assert client.get("/health/ready").json() == {"status": "ready"}


def test_a_request_is_counted_where_the_contract_says(client, draw_image):
    before = samples(client)
    files = [("file", draw_image(seed=seed)) for seed in range(3)]
    answer = client.post("/v1/models/small/classify?sparsity=0.3", files=files).json()
    client.post("/v1/models/small/classify", content=draw_image(), headers=PNG)
    client.post("/v1/models/nobody/classify", content=draw_image(), headers=PNG)
    client.post("/v1/models/small/classify", content=b"?", headers=PNG)
    after = samples(client)

    def grown(name, **labels):
        return value(after, name, **labels) - value(before, name, **labels)

    route = "/v1/models/{model}/classify"
    count = "lccl_request_duration_seconds_count"
    assert grown(count, model="small", route=route, code="200") == 2
    assert grown(count, model="small", route=route, code="415") == 1
    assert grown(count, model="unknown", route=route, code="404") == 1
    assert grown("lccl_rejected_total", model="unknown", reason="unknown_model") == 1
    assert grown("lccl_rejected_total", model="small", reason="not_an_image") == 1
    assert grown("lccl_images_total", model="small", operating_point="interpolated") == 3
    assert grown("lccl_images_total", model="small", operating_point="exact") == 1
    assert grown("lccl_skip_ratio_count", model="small") == 4
    assert grown("lccl_requested_sparsity_sum", model="small") == pytest.approx(3 * 0.3 + 0.1)
    assert grown("lccl_macs_total", model="small", kind="dense") == 4 * 40_551_040
    gated = grown("lccl_macs_total", model="small", kind="gated")
    assert grown("lccl_macs_total", model="small", kind="executed") == gated + 4 * 384  # the last layer's vectors
    told = sum(prediction["macs"]["gated"] for prediction in answer["predictions"])
    assert gated > told
    cells = {key: number for key, number in after.items() if key[0] == "lccl_layer_cells_total"}
    assert len(cells) == 18
    layer = {"model": "small", "layer": "blocks.0.conv1"}
    assert grown("lccl_layer_cells_total", **layer) == 4 * 16 * 32 * 32
    assert 0 <= grown("lccl_layer_cells_skipped_total", **layer) <= 4 * 16 * 32 * 32
    for stage in ("queue", "compute"):
        assert grown("lccl_stage_duration_seconds_count", model="small", stage=stage) == 4
    for stage in ("decode", "encode"):
        assert grown("lccl_stage_duration_seconds_count", model="small", stage=stage) == 2
    assert grown("lccl_batch_size_sum", model="small") == 4
    assert value(after, "lccl_queue_depth", model="small") == 0
    assert any(name == "lccl_model_info" for name, _ in after)
    assert any(name == "lccl_build_info" for name, _ in after)


def test_a_scrape_holds_nobody_up(serve):
    """While the metrics are collected, all else is answered; whoever asks meanwhile gets the same."""
    entered, go, scrapes_run = threading.Event(), threading.Event(), 0

    class Stuck(Collector):
        def collect(self):
            nonlocal scrapes_run
            scrapes_run += 1
            entered.set()
            go.wait(20)
            yield GaugeMetricFamily("lccl_stuck", "Stands still.", value=1)

        def describe(self):
            return ()

    with serve() as client, ThreadPoolExecutor(4) as pool:
        client.app.state.metrics.registry.register(Stuck())
        url = f"{client.base_url}/metrics"
        scrapes = [pool.submit(httpx.get, url, verify=False, timeout=30) for _ in range(3)]
        assert entered.wait(20)
        for _ in range(20):
            assert client.get("/health/live").status_code == 200
        assert not any(scrape.done() for scrape in scrapes)
        go.set()
        assert all("lccl_stuck 1.0" in scrape.result().text for scrape in scrapes)
    assert scrapes_run <= 2


def test_the_loop_goes_on_while_many_classes_are_encoded():
    """Half a second's encoding; the loop's longest standstill, as other processes hold it up, too."""
    metrics = Metrics(CollectorRegistry())
    for model in range(20):
        for number in range(1000):
            metrics.predictions.labels(str(model), f"class number {number}").inc()
    scrapes = Scrapes(metrics.registry, Everywhere())

    async def standstill_s():
        scrape, worst, last = asyncio.create_task(scrapes.encode("")), 0.0, time.perf_counter()
        while not scrape.done():
            await asyncio.sleep(0)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now
        assert scrape.result()[0].count(b"lccl_predictions_total{") == 20_000
        return worst

    assert min(asyncio.run(standstill_s()) for _ in range(2)) < 0.1


def test_hostile_names_make_no_new_series(client, draw_image):
    client.post("/v1/models/small/classify", content=draw_image(), headers=PNG)
    client.post("/v1/models/nobody0/classify", content=draw_image(), headers=PNG)
    client.get("/nothing-yet")
    samples(client)  # which is counted after it
    before = len(samples(client))
    for number in range(20):
        client.post(f"/v1/models/nobody{number}/classify", content=draw_image(), headers=PNG)
        client.get(f"/nothing/{number}")
        client.get("/metrics", headers={"X-Request-ID": f"id{number}"})
    assert len(samples(client)) == before


def test_the_documentation_needs_no_other_host(client):
    page = client.get("/docs").text
    assert "http://" not in page.replace("http://127.0.0.1", "")
    assert "https://" not in page
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert client.get(f"/static-offline-docs/{asset}").status_code == 200
    described = client.get("/openapi.json").json()["paths"]["/v1/classify"]["post"]
    assert set(described["requestBody"]["content"]) >= {"image/jpeg", "multipart/form-data", "application/json"}
    assert {parameter["name"] for parameter in described["parameters"]} == {
        "sparsity", "operating_point", "max_accuracy_drop", "deadline_ms", "exit_confidence", "top_k",
    }  # fmt: skip


def test_metadata_names_what_a_model_offers(client):
    listed = client.get("/v1/models").json()
    assert listed["default"] == "small"
    assert [model["name"] for model in listed["models"]] == ["small", "twin"]
    model = client.get("/v1/models/small").json()
    assert model == listed["models"][0]
    assert model["sparsity_range"] == [0.1, 0.6]
    assert model["smallest_certified_drop"] == pytest.approx(2.4)
    assert [point["name"] for point in model["operating_points"]] == ["exact", "p25", "p40", "p60"]
    assert model["engine"] == "cpu"
    assert model["input"]["max_images"] == 8
    assert listed["models"][1]["smallest_certified_drop"] is None


def test_every_metric_has_help_and_the_prefix():
    registry = CollectorRegistry()
    Metrics(registry)
    own = [family for family in registry.collect() if not family.name.startswith("process_")]
    made = re.findall(r"self\.\w+ = (?:counter|gauge|histogram|BatchHistogram)\(", inspect.getsource(Metrics))
    former = [family for family in own if family.documentation.startswith("Deprecated: lccl_")]
    assert [family.name for family in former] == ["lccl_picture_duration_seconds"]
    assert len(own) == len(made) + len(former)
    for family in own:
        assert family.name.startswith("lccl_")
        assert family.documentation.endswith(".")


def test_every_route_documents_how_it_may_fail(client):
    described = client.get("/openapi.json").json()["paths"]
    for path, methods in described.items():
        for method, route in methods.items():
            if path.startswith(("/v1", "/v2/models", "/v2/repository")):
                assert {"401", "404", "429"} <= set(route["responses"]), (method, path)


def test_what_goes_with_the_next_release_is_marked(client):
    used = client.get("/openapi.json").json()["components"]["schemas"]["OperatingPointUsed"]["properties"]
    assert [name for name, schema in used.items() if schema.get("deprecated")] == ["norm_set"]


def test_answers_are_what_is_documented(client, draw_image):
    """The keys of an answer are those of its schema."""
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    answer = client.post("/v1/classify", content=draw_image(), headers=PNG).json()
    shown = client.post("/v1/models/small/skip-map", content=draw_image(), headers=PNG).json()
    model = client.get("/v1/models/small").json()
    values = {
        "ClassifyAnswer": answer, "Prediction": answer["predictions"][0], "Timing": answer["timing_ms"],
        "OperatingPointUsed": answer["operating_point"], "SkipMapAnswer": shown, "MaskedLayer": shown["layers"][0],
        "ModelMetadata": model, "OfferedPoint": model["operating_points"][0],
    }  # fmt: skip
    for name, value in values.items():
        assert set(value) == set(schemas[name]["properties"]), name


def test_every_route_answers_its_own_method_alone(client):
    for path, allowed in (("/health/live", "GET, HEAD"), ("/v1/models", "GET, HEAD"), ("/v1/classify", "POST")):
        refused = client.put(path)
        assert (refused.status_code, refused.headers["Allow"]) == (405, allowed)
    assert client.head("/v1/classify").status_code == 405
