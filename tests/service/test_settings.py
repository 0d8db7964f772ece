"""Settings: defaults, environment, flags, and refusals before anything starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from lccl.compiler import ENGINES
from lccl.errors import BundleError
from service.app import create_app
from service.settings import Settings
from service.transport import protocol


def run(*flags, **environment):
    return subprocess.run(
        [sys.executable, "-m", "service", *flags], capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": "/usr/bin:/bin", **environment},
    )  # fmt: skip


def test_the_default_listens_on_this_machine_only():
    assert Settings().host == "127.0.0.1"


def test_environment_and_flags(monkeypatch):
    monkeypatch.setenv("LCCL_QUEUE_LIMIT", "77")
    monkeypatch.setenv("LCCL_PORT", "1234")
    settings = CliApp.run(Settings, cli_args=["--port", "4321", "--max-body-bytes", "4096"])
    assert (settings.queue_limit, settings.port, settings.max_body_bytes) == (77, 4321, 4096)


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        Settings().port = 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 70000},
        {"queue_limit": 0},
        {"max_images": 300, "queue_limit": 256},
        {"max_body_bytes": 1 << 20, "max_inflight_bytes": 1 << 19},
        {"api_key": ""},
        {"precision": "int4"},
        {"request_timeout_s": 0},
        {"rate_limit": "often"},
        {"rate_limit": "1/second;9/minute"},
        {"trusted_proxies": "proxy.example"},
        {"trusted_proxies": "10.0.0.0/33"},
        {"trusted_proxies": "*"},
        {"header_timeout_s": 0},
        {"idle_timeout_s": 0},
        {"max_connections": 0},
        {"grpc_port": -1},
        {"tls_certificate": "a.pem"},
        {"tls_key": "a.pem"},
        {"tls_client_ca": "a.pem"},
        {"unknown": 1},
    ],
)
def test_inconsistent_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_limits_of_callers_and_connections_from_the_environment(monkeypatch):
    given = {
        "RATE_LIMIT": "100/second", "TRUSTED_PROXIES": "10.0.0.0/8, ::1", "MAX_CONNECTIONS": "5", "DOCS": "false",
        "HEADER_TIMEOUT_S": "2.5", "IDLE_TIMEOUT_S": "7", "API_KEYS": "/run/keys.toml",
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(f"LCCL_{name}", value)
    settings = Settings()
    assert (settings.rate_limit, settings.trusted_proxies) == ("100/second", "10.0.0.0/8, ::1")
    assert (settings.max_connections, settings.header_timeout_s, settings.idle_timeout_s) == (5, 2.5, 7)
    assert (settings.docs, settings.api_keys) == (False, Path("/run/keys.toml"))


def test_every_engine_and_precision_can_be_asked_for():
    for engine in ENGINES:
        assert Settings(engine=engine).engine == engine
    for precision in ("auto", "fp32", "fp16", "bf16", "fp64"):
        assert Settings(precision=precision).precision == precision
    assert (Settings().engine, Settings().precision) == ("auto", "auto")


def test_the_key_is_not_shown():
    assert "s3cret" not in repr(Settings(api_key="s3cret"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", " ", "\t\n", ""])
def test_a_key_from_a_file_may_have_a_line_end(monkeypatch, end):
    monkeypatch.setenv("LCCL_API_KEY", f"s3cret{end}")
    assert Settings().api_key.get_secret_value() == "s3cret"


@pytest.mark.parametrize("wrong", ["\n", " ", "two\nlines", "two\r\nlines"])
def test_a_key_that_nobody_could_send_is_refused(wrong):
    with pytest.raises(ValidationError, match="api_key"):
        Settings(api_key=wrong)


def test_other_settings_may_have_a_line_end_too(monkeypatch):
    for name, value in {"HOST": "0.0.0.0\n", "PORT": "8001\r\n", "ENGINE": "cpu \n", "DOCS": "false\n"}.items():
        monkeypatch.setenv(f"LCCL_{name}", value)
    settings = Settings()
    assert (settings.host, settings.port, settings.engine, settings.docs) == ("0.0.0.0", 8001, "cpu", False)


@pytest.mark.parametrize("link", ["tcp://10.96.0.12:8000", "tcp://[fd00::1]:80", "udp://10.0.0.1:1\n"])
def test_what_kubernetes_makes_of_a_service_named_lccl_is_no_port(monkeypatch, link):
    monkeypatch.setenv("LCCL_PORT", link)
    monkeypatch.setenv("LCCL_PORT_8000_TCP", link)
    monkeypatch.setenv("LCCL_SERVICE_HOST", "10.96.0.12")
    monkeypatch.setenv("LCCL_SERVICE_PORT", "8000")
    assert Settings().port == 8000
    assert CliApp.run(Settings, cli_args=["--port", "4321"]).port == 4321


def test_unused_connections_are_held_longer_than_balancers_hold_theirs():
    assert Settings().idle_timeout_s > 60


def test_a_bad_setting_ends_with_a_sentence_that_names_it():
    done = run(LCCL_PORT="high")
    assert done.returncode == 2
    assert "port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_device_that_is_not_there_ends_with_a_sentence(start, models_folder):
    assert "cuda:99" in start("--models", str(models_folder), "--device", "cuda:99")


def test_a_folder_without_bundles_ends_with_a_sentence(start, tmp_path):
    assert "no bundles" in start("--models", str(tmp_path))


def test_a_uvicorn_that_does_not_fit_ends_with_a_sentence(start, models_folder, monkeypatch):
    monkeypatch.setitem(protocol.USED, protocol.HttpToolsProtocol, {"moved_elsewhere"})
    assert "has no HttpToolsProtocol.moved_elsewhere" in start("--models", str(models_folder))


def test_help_names_every_setting():
    shown = run("--help").stdout
    for name in Settings.model_fields:
        assert "--" + name.replace("_", "-") in shown


def test_the_former_name_of_the_self_tests_interval_still_works_and_warns(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("LCCL_CANARY_INTERVAL_S", "7")
    settings = Settings(models=tmp_path)
    assert settings.self_test_interval_s == 7
    with pytest.raises(BundleError):
        create_app(settings)
    assert "LCCL_SELF_TEST_INTERVAL_S" in caplog.text
    monkeypatch.setenv("LCCL_SELF_TEST_INTERVAL_S", "5")
    assert Settings().self_test_interval_s == 5
    with pytest.raises(ValidationError):
        Settings(canary_interval_s=0)


def test_without_former_names_nothing_warns(caplog, tmp_path):
    with pytest.raises(BundleError):
        create_app(Settings(models=tmp_path))
    assert not caplog.records


def test_sources_are_checked_and_their_secrets_kept(tmp_path):
    digest = "0" * 64
    settings = Settings(models=f"{tmp_path},https://me:hidden@host/a.tar?key=hidden#sha256={digest}")
    assert "hidden" not in repr(settings)
    shown = run("--models", "https://me:hidden@host/a.tar?key=hidden").stderr
    assert shown.startswith("lccl-serve: models: ")
    assert "#sha256=" in shown
    assert "hidden" not in shown
