"""The dashboard that shows what skipping does: work asked for, done and saved, and whether images changed."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.panels import INSTANCE, MODEL, Section, dashboard, lines, quantiles, rows

OF_MODEL = '{model=~"$model", instance=~"$instance"}'
IMAGES = "lccl_image_duration_seconds"


def _mean(name: str) -> str:
    total, count = (f"sum(rate({name}_{part}{OF_MODEL}[$__rate_interval]))" for part in ("sum", "count"))
    return f"{total} / {count}"


def _macs(kind: str) -> str:
    return f'sum(rate(lccl_macs_total{{model=~"$model", instance=~"$instance", kind="{kind}"}}[$__rate_interval]))'


def _of_point(kind: str) -> str:
    sums = f'lccl_point_skip_ratio_total{{model=~"$model", instance=~"$instance", kind="{kind}"}}'
    return f"sum by (model, operating_point) (rate({sums}[$__rate_interval]))"


def _skipping() -> Section:
    reached = {
        "requested": _mean("lccl_requested_sparsity"),
        "reached": _mean("lccl_skip_ratio"),
        **{f"reached, {name}": query for name, query in quantiles("lccl_skip_ratio", OF_MODEL, 0.1, 0.9).items()},
    }
    share = " / ".join(
        f"sum by (model, layer) (rate({name}{OF_MODEL}[$__rate_interval]))"
        for name in ("lccl_layer_cells_skipped_total", "lccl_layer_cells_total")
    )
    left = f"sum by (exit) (rate(lccl_exits_total{OF_MODEL}[$__rate_interval]))"
    used = f"sum by (operating_point) (rate(lccl_images_total{OF_MODEL}[$__rate_interval]))"
    return "Skipping", [
        lines("Skip ratio", "What the settings were expected to reach, and what images reached: the mean, and "
              "between which values four of five lie.", "percentunit", reached, most=1),
        lines("Operating points in use", "Images by the point they were run at; interpolated lies between two.",
              "suffix: /s", {"{{operating_point}}": used}, stacked=True),
        lines("Images by exit", "Clients' images of models with early exits, by the exit that answered; end is the "
              "network's own answer. Without such models it is 0.", "suffix: /s",
              {"{{exit}}": f'{left} or label_replace(vector(0), "exit", "end", "", "")'}, stacked=True),
        rows("Skip ratio per layer", "Share of a layer's cells that were skipped.", "percentunit",
             "{{model}} {{layer}}", share),
    ]  # fmt: skip


def _work() -> Section:
    done = {kind: _macs(kind) for kind in ("dense", "gated", "executed")}
    saved = {kind: f"1 - {_macs(kind)} / {_macs('dense')}" for kind in ("gated", "executed")}
    buckets = f"sum by (le, operating_point) (rate({IMAGES}_bucket{OF_MODEL}[$__rate_interval]))"
    return "Work and time", [
        lines("Multiply-accumulates", "Dense: the plain twin's. Gated: in theory, gates, kept cells and the rest. "
              "Executed: what the engine ran.", "si:MAC/s", done),
        lines("Compute saved", "Share of the plain twin's multiply-accumulates, in theory (gated) and really "
              "(executed). Below 0 the gates cost more than they save.", "percentunit", saved, least=None, most=1),
        lines("Latency by operating point, p95", "Of a client's image, from the queue to the end of its batch.", "s",
              {"{{operating_point}}": f"histogram_quantile(0.95, {buckets})"}),
    ]  # fmt: skip


def _images() -> Section:
    drift = f"({_of_point('reached')} - {_of_point('expected')}) / {_of_point('spread')}"
    classes = f"sum by (class) (rate(lccl_predictions_total{OF_MODEL}[$__rate_interval]))"
    every = f"sum(rate(lccl_predictions_total{OF_MODEL}[$__rate_interval]))"
    return "Images of clients, without self-tests", [
        lines("Drift of the skip ratio", "How far the mean lies from calibration's, in the spread between held-out "
              "images. Beyond half of it, images are unlike those the points were calibrated on, and stated "
              "accuracies may not hold.", "short", {"{{model}} {{operating_point}}": drift}, least=None,
              limits=(-0.5, 0.5)),
        lines("Predicted classes", "Share of each likeliest class, at most twenty of them.", "percentunit",
              {"{{class}}": f"topk(20, {classes} / scalar({every}))"}, stacked=True),
        lines("Confidence", "Probability of the likeliest class: of one image in ten, in two and in ten it is lower.",
              "percentunit", quantiles("lccl_confidence", OF_MODEL, 0.1, 0.5, 0.9), most=1),
    ]  # fmt: skip


def build() -> Dashboard:
    text = "What clients ask for between accuracy and work, what is computed for it, and whether images have changed."
    return dashboard("lccl-trade-off", "LCCL trade-off", text, [MODEL, INSTANCE], [_skipping(), _work(), _images()])
