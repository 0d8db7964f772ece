"""What the deployment files promise, read without Docker."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
PINNED = re.compile(r":v?\d+(\.\d+)+[a-z0-9.-]*$")


def deployed(path: str):
    return yaml.safe_load((ROOT / "deploy" / path).read_text())


@pytest.mark.parametrize("name", SERVICES)
class TestService:
    def test_listens_on_this_machine_only(self, name):
        assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))

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

    def test_has_no_compiler_unless_it_is_for_a_gpu(self):
        build, final = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]
        assert "apt-get install" in build
        instructions = re.split(r"\n(?=[A-Z]+ )", final)
        (install,) = (one for one in instructions if "apt-get" in one)
        assert install.startswith('RUN if [ -n "$CUDA" ]; then ')
        assert install.endswith("; fi")
        assert "ARG CUDA=" in instructions[: instructions.index(install)]
        assert not SERVICES["service"]["build"]["args"]["CUDA"].removeprefix("${CUDA:-").removesuffix("}")

    def test_takes_only_what_it_needs(self):
        lines = (ROOT / ".dockerignore").read_text().splitlines()
        assert "*" in lines
        assert {line for line in lines if line.startswith("!")} == {
            f"!{name}"
            for name in (
                "pyproject.toml",
                "requirements.lock",
                "CMakeLists.txt",
                "README.md",
                "LICENSE",
                "lccl",
                "service",
                "models",
                "deploy/ray",
            )
        }


class TestWiring:
    def test_prometheus_scrapes_the_service(self):
        (job,) = deployed("prometheus/prometheus.yml")["scrape_configs"]
        port = re.search(r"^EXPOSE (\d+)", DOCKERFILE, re.MULTILINE)[1]
        (found,) = job["dns_sd_configs"]
        assert job["job_name"] == "lccl"
        assert set(found["names"]) == {name for name in SERVICES if "build" in SERVICES[name]}
        assert (found["type"], found["port"]) == ("A", int(port))

    def test_prometheus_has_its_rules(self):
        (pattern,) = deployed("prometheus/prometheus.yml")["rule_files"]
        assert (
            f"./deploy/prometheus/{Path(pattern).parent}:/etc/prometheus/{Path(pattern).parent}:ro"
            in (SERVICES["prometheus"]["volumes"])
        )
        assert list((ROOT / "deploy/prometheus").glob(pattern))

    def test_every_setting_can_be_given_from_outside(self):
        """But for what the image, its health check and Compose's grace period rest on."""
        fixed = {"host", "port", "models", "drain_timeout_s", "api_keys"}  # the last comes with deploy/keys.yml
        expected = {f"LCCL_{name.upper()}" for name in Settings.model_fields if name not in fixed}
        given = SERVICES["service"]["environment"]
        assert set(given) == expected | {"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME"}
        assert set(given.values()) == {None}

    def test_models_are_the_hosts(self):
        folder = re.search(r"LCCL_MODELS=(\S+)", DOCKERFILE)[1]
        for name in ("service", "service-gpu", "service-replica"):
            assert SERVICES[name]["volumes"] == [f"${{MODELS:-./models}}:{folder}:ro"]

    def test_grafana_asks_prometheus(self):
        (source,) = deployed("grafana/provisioning/datasources/prometheus.yml")["datasources"]
        assert source["url"] == "http://prometheus:9090"

    def test_grafana_finds_the_dashboards(self):
        (provider,) = deployed("grafana/provisioning/dashboards/lccl.yml")["providers"]
        assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]

    def test_every_mounted_file_exists(self):
        mounts = [
            volume.replace("${MODELS:-./models}", "./models").split(":")[0]
            for service in SERVICES.values()
            for volume in service.get("volumes", ())
        ]
        assert all((ROOT / mount).exists() for mount in mounts if mount.startswith("."))


def test_a_file_of_keys_is_mounted_with_its_folder_where_the_setting_says():
    services = deployed("keys.yml")["services"]
    assert services.keys() == {name for name in SERVICES if "build" in SERVICES[name]}
    for service in services.values():
        (mount,) = service["volumes"]
        assert mount["type"] == "bind"
        assert mount["read_only"] is True
        assert service["environment"] == {"LCCL_API_KEYS": f"{mount['target']}/keys.toml"}
        assert mount["bind"] == {"create_host_path": False}  # Docker would make an empty one, owned by root


def test_the_gpu_profile_adds_a_service():
    gpu = SERVICES["service-gpu"]
    assert gpu["profiles"] == ["gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert gpu["environment"] == SERVICES["service"]["environment"] | {"LCCL_DEVICE": "cuda"}
    assert gpu["build"]["args"]["CUDA"] == "${CUDA:-cu130}"
    assert gpu["tmpfs"] == ["/tmp:exec"]  # without it, what the cuda engine compiles there could not be loaded


class TestReplicas:
    """The profile `replicas`; what it does is tried in deploy/e2e.sh."""

    def test_adds_replicas_their_balancer_and_their_store(self):
        profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
        assert profiles.pop("service-gpu") == ["gpu"]
        assert profiles == {name: ["replicas"] for name in ("service-replica", "balancer", "store")}

    def test_a_replica_is_the_service_but_for_where_it_stands(self):
        replica, service = SERVICES["service-replica"], SERVICES["service"]
        assert replica["build"] == service["build"]
        assert replica["stop_grace_period"] == service["stop_grace_period"]
        differing = {name for name, value in replica["environment"].items() if service["environment"][name] != value}
        assert differing == {"LCCL_GRPC_PORT", "LCCL_PROCESSES", "LCCL_RATE_LIMIT_STORE", "LCCL_TRUSTED_PROXIES"}

    def test_only_the_balancer_is_reached_from_outside(self):
        assert not {name for name in ("service-replica", "store") if "ports" in SERVICES[name]}

    def test_the_image_has_what_the_store_needs(self):
        assert 'ARG EXTRAS="service redis"\n' in DOCKERFILE
        for name in ("service", "service-gpu", "service-replica"):
            assert SERVICES[name]["build"]["args"]["EXTRAS"] == "${EXTRAS:-service redis}"
        store = SERVICES["service-replica"]["environment"]["LCCL_RATE_LIMIT_STORE"]
        Settings(rate_limit_store=re.fullmatch(r"\$\{\w+:-(.+)\}", store)[1])

    def test_none_but_replicas_share_a_network_with_the_store(self):
        assert {name for name, one in SERVICES.items() if "store" in one.get("networks", ())} == {
            "store",
            "service-replica",
        }
        assert SERVICES["store"]["networks"] == ["store"]
        assert yaml.safe_load((ROOT / "docker-compose.yml").read_text())["networks"] == {"store": {"internal": True}}

    @pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed (Debian: haproxy)")
    def test_the_balancer_takes_its_configuration(self):
        subprocess.run(["haproxy", "-c", "-f", ROOT / "deploy/balancer/haproxy.cfg"], check=True, timeout=30)

    def test_the_balancer_knows_where_replicas_listen(self):
        configuration = (ROOT / "deploy/balancer/haproxy.cfg").read_text()
        ports = re.findall(r"server-template replica \d+ service-replica:(\d+)", configuration)
        assert ports == ["8000", str(SERVICES["service-replica"]["environment"]["LCCL_GRPC_PORT"])]
        published = [port.rpartition(":")[2] for port in SERVICES["balancer"]["ports"]]
        assert published == re.findall(r"bind :(\d+)", configuration)
