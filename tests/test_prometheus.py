"""The rules by their unit tests, and every panel's question to a real Prometheus that reads a real service at work."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.check_stack import query, questions
from service.telemetry.metrics import Metrics, SupervisorMetrics
from tests.conftest import SHIPPED_MODELS

ROOT = Path(__file__).parents[1]
DEPLOYED = ROOT / "deploy/prometheus"
UNIT_TESTS = sorted((ROOT / "tests/prometheus").glob("*.test.yml"))
RULES = [
    rule for group in yaml.safe_load((DEPLOYED / "rules/lccl.yml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in (ROOT / "deploy/grafana/dashboards").glob("*.json")}
LOAD_S, PAUSE_S, PATIENCE_S, INTERVAL = 8, 0.05, 40, "6s"
ADDED = {  # panels that show how much there is at all replicas together
    "Replicas up", "Replicas down", "Requests", "Rejections", "Latency, all requests", "Queue depth",
    "Operating points in use", "Images by exit", "Multiply-accumulates",
}  # fmt: skip
AT_MOST = {"Predicted classes"}  # shows but the twenty likeliest, which are others
MAY_BE_ZERO = {"Replicas down", "Alerts firing", "Queue depth", "Predicted wait", "GPU memory"}
IMAGE = (ROOT / "docs/example.png").read_bytes()
ASKED = [
    ("/v1/classify", IMAGE),
    ("/v1/classify?sparsity=0.42", IMAGE),
    ("/v1/classify?operating_point=p45", IMAGE),
    ("/v1/classify?operating_point=p60&top_k=3", IMAGE),
    ("/v1/classify?operating_point=exact&max_accuracy_drop=5", IMAGE),
    ("/v1/models/resnet20-cifar10/classify?deadline_ms=5000", IMAGE),
    ("/v1/classify?deadline_ms=0.001", IMAGE),
    ("/v1/classify", b"not an image"),
    ("/v1/models/nobody/classify", IMAGE),
    ("/v1/models/early/classify?exit_confidence=0.6", IMAGE),
]

needs = {
    name: pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed (Debian: prometheus)")
    for name in ("promtool", "prometheus")
}


@needs["promtool"]
def test_prometheus_takes_its_configuration():
    subprocess.run(["promtool", "check", "config", DEPLOYED / "prometheus.yml"], check=True, timeout=30)


@needs["promtool"]
@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.name)
def test_rules_pass_their_unit_tests(file):
    ran = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


GPU_SERIES = 'lccl_gpu_memory_bytes{job="lccl", instance="a", device="cuda:0", kind="used"}'


@needs["promtool"]
@pytest.mark.parametrize(
    ("series", "shown"),
    [
        ([{"series": GPU_SERIES, "values": "7+0x9"}], ('{instance="a", device="cuda:0", kind="used"}', 7)),
        ([], ('{instance="no GPU in use"}', 0)),
    ],
)
def test_the_panel_of_gpus_shows_them_or_says_that_none_is_in_use(series, shown, tmp_path):
    (asked,) = (asked for asked, title in questions(DASHBOARDS["resources"], INTERVAL) if title == "GPU memory")
    samples = [{"labels": shown[0], "value": shown[1]}]
    checked = {"interval": "1m", "input_series": series}
    checked["promql_expr_test"] = [{"expr": asked, "eval_time": "5m", "exp_samples": samples}]
    (tmp_path / "panel.test.yml").write_text(yaml.safe_dump({"tests": [checked]}))
    test_rules_pass_their_unit_tests(tmp_path / "panel.test.yml")


def test_every_alert_has_a_unit_test_in_which_it_fires():
    cases = (
        case
        for file in UNIT_TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test.get("alert_rule_test", ())
    )
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == ALERTS.keys()


def test_every_alert_has_an_entry_in_the_runbook():
    entries = re.findall(r"^### (\w+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert entries == list(ALERTS)
    for name, alert in ALERTS.items():
        assert alert["annotations"]["runbook"] == f"docs/operations.md#{name.lower()}"
        assert alert["labels"]["severity"] in {"page", "ticket"}


def test_rules_ask_for_metrics_that_exist():
    registry = CollectorRegistry()
    Metrics(registry)
    several = CollectorRegistry()
    SupervisorMetrics(several)
    known = {family.name for one in (registry, several) for family in one.collect()}
    asked = set(re.findall(r"\b(?:lccl|process)_[a-z_]+", "\n".join(rule["expr"] for rule in RULES)))
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked} <= known


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextmanager
def process(*command, log, ready):
    """A server until the end of the block, which begins when its address answers."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("LCCL_")}
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=settings, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 120
        while True:
            with suppress(httpx.TransportError):
                if httpx.get(ready, verify=False).status_code == 200:
                    break
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def configuration(services, folder):
    """The deployed configuration for services on this machine, read every second."""
    chosen = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    chosen["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    chosen["rule_files"] = [str(DEPLOYED / pattern) for pattern in chosen["rule_files"]]
    (job,) = chosen["scrape_configs"]
    job["static_configs"] = [{"targets": [service.removeprefix("http://") for service in services]}]
    del job["dns_sd_configs"]  # Docker's
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(chosen))
    return file


@contextmanager
def load(services, clients):
    """Requests of all kinds to each of them until the end of the block; each client sends one after the other, with
    pauses."""
    over = threading.Event()

    def ask(service):
        with httpx.Client(base_url=service, timeout=30, verify=False) as client:
            for path, body in itertools.cycle(ASKED):
                if over.is_set():
                    return
                client.post(path, content=body, headers={"Content-Type": "image/png"})
                over.wait(PAUSE_S)

    threads = [threading.Thread(target=ask, args=(service,)) for service in services for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory, early_folder):
    """The address of a Prometheus that reads two replicas under load, whose target wait is too short to be kept."""
    folder = tmp_path_factory.mktemp("prometheus")
    (folder / "models").mkdir()
    for model in (early_folder / "early", SHIPPED_MODELS / "resnet20-cifar10"):
        (folder / "models" / model.name).symlink_to(model)
    *services, prometheus = (f"http://127.0.0.1:{free_port()}" for _ in range(3))
    with ExitStack() as stack:
        for number, service in enumerate(services):
            stack.enter_context(
                process(
                    *(sys.executable, "-m", "service", "--port", service.rpartition(":")[2]),
                    *("--models", folder / "models", "--default-model", "resnet20-cifar10"),
                    *("--queue-target-ms", "0.001", "--log-level", "warning"),
                    log=folder / f"service {number}.log", ready=f"{service}/health/ready",
                )
            )  # fmt: skip
        stack.enter_context(
            process(
                *("prometheus", "--config.file", configuration(services, folder), "--log.level", "warn"),
                *("--storage.tsdb.path", folder / "data"),
                *("--web.listen-address", prometheus.removeprefix("http://")),
                log=folder / "prometheus.log", ready=f"{prometheus}/-/ready",
            )
        )  # fmt: skip
        stack.enter_context(load(services, clients=2))
        time.sleep(LOAD_S)
        yield prometheus


def emptiness(prometheus, title, expression):
    """What is wrong with the answer to a panel's question; nothing when it has data that show something."""
    found = query(prometheus, expression)
    if found is None:
        return f"{title}: Prometheus does not understand {expression}"
    values = [value for series in found if math.isfinite(value := float(series["value"][1]))]
    if not values:
        return f"{title}: no data for {expression}"
    return "" if any(values) or title in MAY_BE_ZERO else f"{title}: nothing but 0 for {expression}"


@needs["prometheus"]
@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_panel_is_empty(name, prometheus):
    deadline = time.monotonic() + PATIENCE_S
    for expression, title in questions(DASHBOARDS[name], INTERVAL):
        while wrong := emptiness(prometheus, title, expression):
            assert time.monotonic() < deadline, wrong
            time.sleep(0.5)


def shown(prometheus, panel, instance, at):
    """What a panel shows for a choice of its replica variable at a time: numbers by query and labels."""
    found = {}
    for number, (expression, _) in enumerate(questions({"panels": [panel]}, INTERVAL, instance)):
        answer = httpx.get(f"{prometheus}/api/v1/query", params={"query": expression, "time": at}).json()
        for series in answer["data"]["result"]:
            if math.isfinite(value := float(series["value"][1])):
                found[number, *sorted(series["metric"].items())] = value
    return found


@needs["prometheus"]
@pytest.mark.parametrize("name", DASHBOARDS)
def test_what_panels_show_of_all_replicas_is_what_they_show_of_each_taken_together(name, prometheus):
    """Amounts are added; each replica's own lines are all there; and ratios and quantiles lie between the replicas'."""
    at = time.time() - 1  # what was read by then stays as it is
    replicas = [series["metric"]["instance"] for series in query(prometheus, 'up{job="lccl"}')]
    assert len(replicas) == 2
    for panel in DASHBOARDS[name]["panels"]:
        one, two, both = (shown(prometheus, panel, instance, at) for instance in (*map(re.escape, replicas), ".+"))
        assert both.keys() == one.keys() | two.keys() or panel["title"] in AT_MOST
        for series in both.keys() & (one.keys() | two.keys()):
            parts = [each[series] for each in (one, two) if series in each]
            least, most = [sum(parts)] * 2 if panel["title"] in ADDED else (min(parts), max(parts))
            rounding = 1e-9 * (1 + abs(most))
            told = f"{panel['title']}: {series} is {both[series]} of all, and {parts} of each"
            assert least - rounding <= both[series] <= most + rounding, told


@needs["prometheus"]
def test_rules_are_evaluated_without_errors(prometheus):
    groups = httpx.get(f"{prometheus}/api/v1/rules").json()["data"]["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert len(found) == len(RULES)
    assert {rule["health"] for rule in found} == {"ok"}
    recorded = [rule["record"] for rule in RULES if "record" in rule]
    assert [name for name in recorded if not query(prometheus, name)] == []


@needs["prometheus"]
def test_a_service_that_answers_sets_off_no_alert_of_being_gone(prometheus):
    assert query(prometheus, 'up{job="lccl"} == 1')
    assert query(prometheus, 'ALERTS{alertname=~"LcclDown|LcclAbsent|LcclRestarts"}') == []
