"""The service's settings: from the environment (prefix LCCL_) or flags, checked at start, frozen after."""

import re
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .auth.rate_limits import RateText
from .auth.shared_rates import check_store
from .sources.location import parse_locations


def _networks(text: str) -> str:
    for network in filter(None, (part.strip() for part in text.split(","))):
        ip_network(network)
    return text


def _sources(text: str) -> str:
    parse_locations(text)
    return text


def _listed(kind: str, pattern: str) -> Callable[[str], str]:
    """Checks each entry of a list that is separated by commas."""

    def check(text: str) -> str:
        for entry in filter(None, (part.strip() for part in text.split(","))):
            if not re.fullmatch(pattern, entry, re.IGNORECASE):
                raise ValueError(f"{entry!r} is no {kind}")
        return text

    return check


def _key(secret: SecretStr) -> SecretStr:
    key = secret.get_secret_value()
    if not key or not key.isprintable():
        raise ValueError("a key is one line, and not empty")
    return secret


NAME = r"[a-z0-9_-]+(\.[a-z0-9_-]+)*"
Sources = Annotated[str, BeforeValidator(str), AfterValidator(_sources)]
Networks = Annotated[str, AfterValidator(_networks)]
Hosts = Annotated[
    str, AfterValidator(_listed("name of a host, without scheme and port", rf"\*|(\*\.)?{NAME}|\[[0-9a-f:.]+\]"))
]
Origins = Annotated[
    str,
    AfterValidator(
        _listed("origin like https://app.example.com", rf"\*|[a-z][a-z0-9+.-]*://({NAME}|\[[0-9a-f:.]+\])(:\d+)?")
    ),
]
RootPath = Annotated[str, StringConstraints(pattern=r"^((/[A-Za-z0-9._~-]+)+)?$")]
# What Kubernetes sets as LCCL_PORT in every container beside a Service that is named lccl, and alike for lccl-grpc.
SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://.+:\d+")


class Settings(BaseSettings):
    """How one server runs."""

    model_config = SettingsConfigDict(
        env_prefix="LCCL_", frozen=True, extra="forbid", cli_kebab_case=True, cli_prog_name="lccl-serve",
        cli_hide_none_type=True, cli_avoid_json=True,
    )  # fmt: skip

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    grpc_port: int | None = Field(None, ge=0, le=65535, description="port of gRPC; 0 takes a free one, none is off")
    tls_certificate: Path | None = Field(None, description="PEM file of the certificate; HTTP and gRPC are encrypted")
    tls_key: Path | None = Field(None, description="PEM file of the certificate's key, unencrypted")
    tls_client_ca: Path | None = Field(None, description="PEM file of roots; clients need a certificate from them")
    models: Sources = Field(
        "models", repr=False, description="folder of bundles, each served under its folder's name; or several sources, "
        "separated by commas: folders, s3://, hf://, https:// (docs/models.md)",
    )  # fmt: skip
    models_cache: Path | None = Field(None, description="folder for fetched models; else the user's cache folder")
    fetch_models_s: float = Field(
        0.0,
        ge=0,
        le=86_400,
        description="seconds between fetches of remote sources; 0 fetches at start and SIGHUP only",
    )
    signing_policy: Path | None = Field(None, description="file that says who must have signed which models")
    default_model: str | None = Field(None, description="model of /v1/classify; without it the first by name")
    engine: Literal["auto", "cpu", "cuda", "reference"] = Field("auto", description="what runs the models")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:i")
    precision: Literal["auto", "fp32", "int8", "fp16", "bf16", "fp64"] = Field(
        "auto",
        description="arithmetic of the engine; auto is fp16 on cuda, int8 on cpu where a model has it, else fp32",
    )
    instruction_set: str = Field("auto", description="of the cpu engine: auto, avx512, avx2, neon, portable, …")
    api_key: Annotated[SecretStr, AfterValidator(_key)] | None = Field(
        None, description="when set, /v1 and /v2 ask for it (Bearer or X-API-Key)"
    )
    api_keys: Path | None = Field(None, description="file of several keys, hashed: see docs/security.md")
    rate_limit: RateText = Field("", description="requests of one caller, such as 100/second; empty is no limit")
    rate_limit_store: Annotated[SecretStr, AfterValidator(check_store)] | None = Field(
        None, description="Redis or Valkey in which replicas count requests together, such as redis://store:6379/0"
    )
    trusted_proxies: Networks = Field("", description="addresses of proxies whose X-Forwarded-For is believed")
    allowed_hosts: Hosts = Field("", description="names in Host that are answered, such as lccl.example.com, or *")
    root_path: RootPath = Field("", description="prefix that a proxy puts before all paths, such as /lccl")
    cors_origins: Origins = Field("", description="other origins whose pages may read answers, or *; empty is none")
    docs: bool = Field(True, description="serve /docs, /openapi.json and the playground at /")
    decode_threads: int = Field(
        0, ge=0, le=256, description="threads that decode images; 0 takes one per core, and one for small images"
    )
    compute_threads: int = Field(0, ge=0, le=1024, description="threads of the engine; 0 takes one per core")
    processes: int = Field(
        0, ge=0, le=1024, description="processes that serve; 0 takes one, or for small models as many as have cores"
    )
    compute_streams: int = Field(2, ge=1, le=64, description="batches that the engine runs at once, at most")
    brownout: bool = Field(True, description="serve requests that allow it sparser while the queue is too long")
    queue_target_ms: float = Field(50.0, gt=0, le=3_600_000, description="predicted wait that is thought too long")
    self_test_interval_s: float = Field(10.0, gt=0, le=3600, description="seconds between a model's self-tests")
    canary_interval_s: float | None = Field(None, gt=0, le=3600, description="deprecated: self_test_interval_s")
    watch_models_s: float = Field(0.0, ge=0, le=3600, description="seconds between looks at the folder; 0 never looks")
    queue_limit: int = Field(256, ge=1, le=100_000, description="images of a model that may wait")
    max_body_bytes: int = Field(16 << 20, ge=1 << 10, le=1 << 30, description="largest request body")
    max_inflight_bytes: int = Field(256 << 20, ge=1 << 10, description="request bodies held in memory at once")
    max_pixels: int = Field(25_000_000, ge=1, le=1_000_000_000, description="largest image, width × height")
    max_request_pixels: int = Field(200_000_000, ge=1, description="pixels of all images of one request")
    max_decoding_pixels: int = Field(50_000_000, ge=1, description="pixels of all large images in decoding at once")
    max_images: int = Field(64, ge=1, le=10_000, description="images in one request")
    max_connections: int = Field(8192, ge=1, le=1_000_000, description="connections held at once")
    header_timeout_s: float = Field(10.0, gt=0, le=3600, description="seconds that the head of a request may take")
    idle_timeout_s: int = Field(75, ge=1, le=3600, description="seconds after which an unused connection is closed")
    request_timeout_s: float = Field(10.0, gt=0, le=3600, description="seconds after which a request is answered 504")
    drain_timeout_s: float = Field(30.0, gt=0, le=3600, description="seconds that accepted requests get after SIGTERM")
    tracing: bool = Field(False, description="export OpenTelemetry spans, to where the OTEL_ variables say")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], Field(description="least level logged")] = "info"

    @model_validator(mode="before")
    @classmethod
    def _as_given(cls, given: dict[str, Any]) -> dict[str, Any]:
        # values from files end in line ends: those of a Secret made with echo, or by an editor of Windows
        given = {name: value.strip() if isinstance(value, str) else value for name, value in given.items()}
        for port in ("port", "grpc_port"):
            if SERVICE_LINK.fullmatch(str(given.get(port))):
                del given[port]
        former = given.get("canary_interval_s")
        return given if former is None else {"self_test_interval_s": former, **given}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_images > self.queue_limit:
            raise ValueError("max_images must not exceed queue_limit: such a request could never be accepted")
        if self.max_body_bytes > self.max_inflight_bytes:
            raise ValueError("max_body_bytes must not exceed max_inflight_bytes")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: set both, or none")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        return self
