"""The dashboard that shows whether the service is well: who is up, what is asked, how fast, what is refused."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.panels import INSTANCE, MODEL, Section, buckets, dashboard, labels, lines, number, quantiles

OF_MODEL = '{model=~"$model", instance=~"$instance"}'
OF_REPLICA = '{instance=~"$instance"}'
ANSWERED = '{model=~"$model", instance=~"$instance", code=~"2.."}'
REQUESTS = "lccl_request_duration_seconds_count"


def _share(codes: str) -> str:
    """The share of requests answered with these status codes; 0 where there are none."""
    some = f'sum(rate({REQUESTS}{{model=~"$model", instance=~"$instance", code=~"{codes}"}}[$__rate_interval]))'
    return f"({some} or vector(0)) / sum(rate({REQUESTS}{OF_MODEL}[$__rate_interval]))"


def _state() -> Section:
    alarms = [("green", None), ("red", 1.0)]
    known = 'up{job="lccl", instance=~"$instance"}'
    up, down = f"sum({known})", f"count({known} == 0) or vector(0)"
    firing = 'count(ALERTS{alertstate="firing"}) or vector(0)'
    models = f"max by (model, version, engine, precision, digest) (lccl_model_info{OF_MODEL})"
    return "State", [
        number("Replicas up", "Servers that Prometheus could read.", "short", up, [("red", None), ("green", 1.0)], 3),
        number("Replicas down", "Servers that Prometheus knows and could not read.", "short", down, alarms, 3),
        number("Alerts firing", "Of all rules in Prometheus. The runbook is docs/operations.md.", "short", firing,
               alarms, 3),
        labels("Models", "What is served. The digest names the bundle's exact content.", models, 10),
        labels("Build", "What runs.", f"max by (version, python, torch) (lccl_build_info{OF_REPLICA})", 5),
    ]  # fmt: skip


def _requests() -> Section:
    by_route = {"{{route}} {{code}}": f"sum by (route, code) (rate({REQUESTS}{OF_MODEL}[$__rate_interval]))"}
    failed = {"client's (4xx)": _share("4.."), "server's (5xx)": _share("5..")}
    rejected = 'lccl_rejected_total{model=~"$model|", instance=~"$instance"}'
    refused = {"{{reason}}": f"sum by (reason) (rate({rejected}[$__rate_interval]))"}
    return "Requests", [
        lines("Requests", "By route and status, of requests whose model was known: what was refused before, for its "
              "key or rate, is among the rejections.", "reqps", by_route, stacked=True),
        lines("Error ratio", "Of these requests. 429 is refused under load, 503 not ready, 504 too late.",
              "percentunit", failed),
        lines("Rejections", "Images and requests answered with an error, by its reason; what was refused before its "
              "model was known too.", "suffix: /s", refused),
    ]  # fmt: skip


def _latency() -> Section:
    name = "lccl_request_duration_seconds"
    heat = f"sum by (le) (increase({name}_bucket{ANSWERED}[$__rate_interval]))"
    stages = f"sum by (le, stage) (rate(lccl_stage_duration_seconds_bucket{OF_MODEL}[$__rate_interval]))"
    by_stage = {"{{stage}}": f"histogram_quantile(0.95, {stages})"}
    return "Latency", [
        lines("Latency", "Of requests answered, from their first byte.", "s",
              quantiles(name, ANSWERED, 0.5, 0.95, 0.99)),
        buckets("Latency, all requests", "Requests answered, by how long they took.", "s", heat),
        lines("Time by stage, p95", "Of an image in decode, queue and compute; of an answer in encode.", "s",
              by_stage),
    ]  # fmt: skip


def _load() -> Section:
    waiting = {"{{model}}": f"sum by (model) (lccl_queue_depth{OF_MODEL})"}
    inflight = {"{{instance}}": f"lccl_inflight_requests{OF_REPLICA}"}
    wait = {"{{instance}}": f"max by (instance) (lccl_predicted_wait_seconds{OF_REPLICA})"}
    level = {
        "level, {{instance}}": f"max by (instance) (lccl_brownout_level{OF_REPLICA})",
        "downgraded": f"(sum(rate(lccl_downgraded_total{OF_MODEL}[$__rate_interval])) or vector(0)) / "
        f"sum(rate(lccl_images_total{OF_MODEL}[$__rate_interval]))",
    }
    sizes = quantiles("lccl_batch_size", OF_MODEL, 0.5, 0.95)
    mean = f"sum(rate(lccl_batch_size_sum{OF_MODEL}[$__rate_interval]))"
    sizes["mean"] = f"{mean} / sum(rate(lccl_batch_size_count{OF_MODEL}[$__rate_interval]))"
    return "Load", [
        lines("Queue depth", "Images that wait, by model.", "short", waiting),
        lines("In flight", "Requests being answered.", "short", inflight),
        lines("Batch size", "Images that the engine ran together.", "short", sizes),
        lines("Predicted wait", "Of an image that would arrive now: what waits, at the rate it leaves.", "s", wait,
              12),
        lines("Brown-out", "How far images that may be served sparser are: 0 not at all, 1 to their floor; and the "
              "share of all images that were.", "percentunit", level, 12, most=1),
    ]  # fmt: skip


def build() -> Dashboard:
    text = "Who is up, what is asked, how fast it is answered and what is refused."
    sections = [_state(), _requests(), _latency(), _load()]
    return dashboard("lccl-overview", "LCCL overview", text, [MODEL, INSTANCE], sections)
