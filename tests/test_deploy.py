"""What the deployment files promise, read without Docker."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from service.metrics import Metrics

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
GRAFANA = ROOT / "deploy/grafana"
DASHBOARD_TEXT = (GRAFANA / "dashboards/overview.json").read_text()
DASHBOARD = json.loads(DASHBOARD_TEXT)
PANELS = DASHBOARD["panels"]
CHARTS = [panel for panel in PANELS if panel["type"] != "row"]
SAMPLES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
PINNED = re.compile(r":v?\d+(\.\d+)+[a-z0-9.-]*$")


def deployed(path: str):
    return yaml.safe_load((ROOT / "deploy" / path).read_text())


@pytest.fixture(scope="module")
def metrics():
    """The samples that each of the service's metrics exports."""
    registry = CollectorRegistry()
    Metrics(registry)
    families = [family for family in registry.collect() if family.name.startswith("lccl_")]
    return {family.name: {family.name + suffix for suffix in SAMPLES[family.type]} for family in families}


@pytest.fixture(scope="module")
def asked():
    """The samples that the dashboard asks Prometheus for."""
    return set(re.findall(r"\blccl_[a-z_]+", "\n".join(t["expr"] for p in CHARTS for t in p["targets"])))


@pytest.mark.parametrize("name", SERVICES)
class TestService:
    def test_listens_on_this_machine_only(self, name):
        assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])

    def test_is_hardened(self, name):
        service = SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in service
        assert "cap_add" not in service

    def test_has_a_health_check(self, name):
        assert "healthcheck" in SERVICES[name] or ("build" in SERVICES[name] and "\nHEALTHCHECK " in DOCKERFILE)

    def test_is_pinned(self, name):
        assert "build" in SERVICES[name] or PINNED.search(SERVICES[name]["image"])


class TestImage:
    def test_is_built_from_pinned_images(self):
        images = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
        assert images
        assert all(PINNED.search(image) for image in images)

    def test_runs_as_a_numbered_user(self):
        assert re.findall(r"^USER (.+)", DOCKERFILE, re.MULTILINE) == ["10001:10001"]

    def test_torch_is_the_same_as_in_the_makefile(self):
        torch = re.search(r"^TORCH \?= (\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
        assert f"ARG TORCH={torch}\n" in DOCKERFILE
        assert SERVICES["service"]["build"]["args"]["TORCH"] == f"${{TORCH:-{torch}}}"

    def test_has_no_compiler(self):
        build, final = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
        assert "apt-get install" in build
        assert "apt-get" not in final

    def test_takes_only_what_it_needs(self):
        lines = (ROOT / ".dockerignore").read_text().splitlines()
        assert "*" in lines
        assert {line for line in lines if line.startswith("!")} == {
            f"!{name}"
            for name in ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", "lccl", "service", "models")
        }


class TestWiring:
    def test_prometheus_scrapes_the_service(self):
        (job,) = deployed("prometheus/prometheus.yml")["scrape_configs"]
        port = re.search(r"^EXPOSE (\d+)", DOCKERFILE, re.MULTILINE)[1]
        assert job["job_name"] == "lccl"
        assert job["static_configs"] == [{"targets": [f"service:{port}"]}]

    def test_grafana_asks_prometheus(self):
        (source,) = deployed("grafana/provisioning/datasources/prometheus.yml")["datasources"]
        assert source["url"] == "http://prometheus:9090"

    def test_grafana_finds_the_dashboards(self):
        (provider,) = deployed("grafana/provisioning/dashboards/lccl.yml")["providers"]
        assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]

    def test_every_mounted_file_exists(self):
        mounts = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())]
        assert all((ROOT / mount).exists() for mount in mounts if mount.startswith("."))


class TestDashboard:
    def test_asks_for_metrics_that_exist(self, metrics, asked):
        assert asked <= set().union(*metrics.values())

    def test_shows_every_metric(self, metrics, asked):
        assert [name for name, samples in metrics.items() if not samples & asked] == []

    def test_uses_the_provisioned_data_source(self):
        (source,) = deployed("grafana/provisioning/datasources/prometheus.yml")["datasources"]
        wanted = {"type": source["type"], "uid": source["uid"]}
        assert all(panel["datasource"] == wanted for panel in CHARTS)
        assert all(variable["datasource"] == wanted for variable in DASHBOARD["templating"]["list"])

    def test_panels_have_their_own_ids(self):
        ids = [panel["id"] for panel in PANELS]
        assert len(ids) == len(set(ids))

    def test_panels_lie_side_by_side_on_the_grid(self):
        places = [panel["gridPos"] for panel in PANELS]
        assert all(place["x"] >= 0 and place["x"] + place["w"] <= 24 for place in places)
        for one, other in combinations(places, 2):
            apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert apart_x or apart_y

    def test_panels_explain_themselves(self):
        assert all(panel["title"] and panel["description"] for panel in CHARTS)
        assert all("unit" in p["fieldConfig"]["defaults"] for p in CHARTS if p["type"] == "timeseries")

    def test_is_written_so_that_changes_can_be_read(self):
        assert json.dumps(DASHBOARD, indent=2, ensure_ascii=False) + "\n" == DASHBOARD_TEXT
