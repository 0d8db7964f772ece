"""Names that the service answers to, prefixes of its paths, HEAD, slashes, and pages of other origins."""

from __future__ import annotations

import re
import socket

import pytest

from service.api.origins import host_check, is_loopback
from service.settings import Settings
from tests.service.conftest import serve as serving
from tests.service.engines import wait_for

PNG = {"Content-Type": "image/png"}
PAGE = "https://app.example.com"


def ask(client, host, path="/health/live", version="1.1"):
    """The status of an answer to a request with that ``Host``, or none."""
    line = "" if host is None else f"Host: {host}\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/{version}\r\n{line}Connection: close\r\n\r\n".encode("latin-1"))
        return int(connection.recv(65536).split()[1])


@pytest.fixture(scope="module")
def local(small_folder):
    with serving(models=small_folder, allowed_hosts="") as client:
        yield client


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1", "127.0.0.1:1", "[::1]:8000", "10.1.2.3:8000", "", None],
)
def test_on_this_machine_alone_its_own_names_and_addresses_are_answered(local, host):
    assert ask(local, host) == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil.example", "x", "[evil]", "a:b"],
)
def test_a_foreign_name_that_points_at_this_machine_is_not(local, host):
    for path in ("/health/live", "/v1/models", "/metrics", "/", "/openapi.json"):
        assert ask(local, host, path) == 421


def test_the_refusal_names_the_setting(local):
    refused = local.get("/v1/models", headers={"Host": "evil.example"})
    assert refused.json()["code"] == "wrong_host"
    assert "LCCL_ALLOWED_HOSTS" in refused.json()["detail"]


def test_where_others_reach_it_every_name_is_answered_until_names_are_set():
    assert (
        host_check("", "0.0.0.0")
        is host_check("", "::")
        is host_check("", "lccl")
        is host_check("*", "127.0.0.1")
        is None
    )
    check = host_check("lccl.example.com, *.internal", "0.0.0.0")
    for host in (
        "lccl.example.com",
        "LCCL.example.com:443",
        "a.internal",
        "a.b.internal:80",
        "10.0.0.7:8000",
        "[fd00::1]:80",
    ):
        assert check(host), host
    for host in ("localhost", "example.com", "x.lccl.example.com", "internal", "xinternal", "evil.example"):
        assert not check(host), host


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_addresses_of_this_machine_alone_are_known(host, loopback):
    assert is_loopback(host) == loopback


@pytest.mark.parametrize(
    "wrong",
    [
        {"allowed_hosts": "http://a"}, {"allowed_hosts": "a:80"}, {"allowed_hosts": "a b"}, {"allowed_hosts": "*a"},
        {"root_path": "lccl"}, {"root_path": "/lccl/"}, {"root_path": "/"}, {"root_path": "/a b"}, {"root_path": '/"'},
        {"cors_origins": "app.example.com"}, {"cors_origins": "https://app.example.com/"}, {"cors_origins": "null"},
    ],
)  # fmt: skip
def test_settings_that_could_never_fit_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)


@pytest.mark.parametrize(
    "path",
    [
        "/", "/docs", "/openapi.json", "/metrics", "/health/live", "/health/ready", "/v1/models", "/v1/models/small",
        "/v2", "/v2/health/ready", "/v2/models/small", "/playground/main.js", "/static-offline-docs/swagger-ui.css",
    ],
)  # fmt: skip
def test_head_is_get_without_the_body(client, path):
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"") == (got.status_code, b"")
    different = {"date", "x-request-id", *({"content-length"} if path in {"/metrics", "/v1/models"} else ())}
    assert {name: value for name, value in head.headers.items() if name not in different} == {
        name: value for name, value in got.headers.items() if name not in different
    }


def test_head_does_not_end_the_connection_and_is_logged_as_head(client, caplog):
    with caplog.at_level("DEBUG"):
        for _ in range(3):
            assert client.head("/v1/models").status_code == 200
    wait_for(lambda: caplog.messages.count("HEAD /v1/models 200") >= 3)  # a line is written after its answer
    assert client.head("/nothing").status_code == 404


@pytest.mark.parametrize(
    "path", ["/v1/classify/", "/v1/models/", "/v1/models/small/classify/", "/docs/", "/health/live/", "/x/"]
)
def test_a_slash_at_the_end_is_no_redirect(client, draw_image, path):
    for answer in (client.get(path), client.post(path, content=draw_image(), headers=PNG)):
        assert answer.status_code == 404
        assert "slash" in answer.json()["detail"]
        assert "Location" not in answer.headers


def requests_of(metrics, route):
    return re.findall(
        rf'lccl_request_duration_seconds_count{{code="200",model="",route="{re.escape(route)}"}} (\d+)', metrics
    )


def test_pages_have_names_of_their_own_in_the_metrics(client):
    routes = {
        "/docs": "/docs", "/openapi.json": "/openapi.json", "/": "/", "/playground/main.js": "/playground/{name}",
        "/static-offline-docs/swagger-ui.css": "/static-offline-docs/{name}",
    }  # fmt: skip
    for path in routes:
        assert client.get(path).status_code == client.head(path).status_code == 200
    told = client.get("/metrics").text
    for route in routes.values():
        assert requests_of(told, route), route


@pytest.mark.parametrize("prefix", ["", "/tools/lccl"])
def test_behind_a_prefix_pages_find_their_files(serve, draw_image, prefix):
    """The proxy takes the prefix off, or leaves it."""
    with serve(root_path="/tools/lccl") as client:
        page = client.get(f"{prefix}/docs")
        assert page.status_code == 200
        for source in re.findall(r'(?:src|href)="([^"]+)"', page.text):
            assert source.startswith("/tools/lccl/static-offline-docs/")
            assert client.get(prefix + source.removeprefix("/tools/lccl")).status_code == 200
        assert "'/tools/lccl/openapi.json'" in page.text.replace('"', "'")
        assert client.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/tools/lccl"}]
        assert client.get(f"{prefix}/").status_code == 200
        answer = client.post(f"{prefix}/v1/classify", content=draw_image(), headers=PNG)
        assert answer.status_code == 200
        assert "error" in client.post(f"{prefix}/v2/models/nobody/infer").json()
        assert client.get("/tools/lcclv1/models").status_code == 404


@pytest.fixture(scope="module")
def shared(small_folder):
    with serving(
        models=small_folder, cors_origins=f"{PAGE}, http://localhost:5173", api_key="one", rate_limit="40/minute"
    ) as client:
        yield client


def test_nothing_is_said_of_other_origins_unless_they_are_set(client):
    preflight = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    for answer in (
        client.get("/v1/models", headers={"Origin": PAGE}),
        client.options("/v1/classify", headers=preflight),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control") or name == "vary"]
    assert answer.status_code == 405


def test_a_page_of_a_set_origin_may_ask_and_read_answers_and_errors(shared, draw_image):
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    wanted = "authorization,content-type,x-lccl-sparsity,x-lccl-deadline-ms,x-request-id"
    told = shared.options("/v1/classify", headers=asked | {"Access-Control-Request-Headers": wanted})
    assert told.status_code == 200
    assert told.headers["Access-Control-Allow-Origin"] == PAGE
    assert "POST" in told.headers["Access-Control-Allow-Methods"]
    assert told.headers["X-Request-ID"]
    allowed = told.headers["Access-Control-Allow-Headers"].lower()
    assert all(name in allowed for name in wanted.split(","))
    send, key = {"content": draw_image()}, {"X-API-Key": "one"}
    statuses = [
        (200, shared.post("/v1/classify", headers=PNG | key | {"Origin": PAGE}, **send)),
        (401, shared.post("/v1/classify", headers=PNG | {"Origin": PAGE}, **send)),
        (404, shared.get("/nothing", headers={"Origin": PAGE})),
        (415, shared.post("/v1/classify", headers=key | {"Origin": PAGE}, content=b"?")),
    ]
    statuses += [(429, [shared.get("/v1/models", headers=key | {"Origin": PAGE}) for _ in range(45)][-1])]
    for status, answer in statuses:
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert answer.headers["Vary"] == "Origin"
        assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
        assert "Retry-After" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers


def test_a_page_of_another_origin_may_not(shared):
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (shared.options("/v1/classify", headers=asked), shared.get("/nothing", headers=asked)):
        assert answer.status_code in {400, 404}
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Origin" in answer.headers["Vary"]


def test_all_origins_may_be_set(serve):
    with serve(cors_origins="*") as client:
        assert client.get("/v1/models", headers={"Origin": PAGE}).headers["Access-Control-Allow-Origin"] == "*"
        asked = {
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Private-Network": "true",
        }
        assert client.options("/v1/classify", headers=asked).headers["Access-Control-Allow-Origin"] == "*"


def test_a_plain_options_is_no_preflight(shared):
    assert shared.options("/v1/classify").status_code == 405
