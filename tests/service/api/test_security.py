"""What a browser is told, what names can reach, and the limits on connections as settings of the whole service."""

from __future__ import annotations

import re
import socket
import sys
import time

import pytest
from starlette.routing import Route

from service.api.middleware import content_security_policy
from service.transport.server import OTHER_FILES, connections_that_fit

PNG = {"Content-Type": "image/png"}
HOSTILE = [
    b"..%2fhostile", b"..%2F..%2Fhostile", b"%2e%2e%2fhostile", b"..%5chostile", b"%2fhostile", b"%2Fetc%2Fhostile",
    b"..", b"%2e%2e", b".", b"~hostile", b"hostile%00", b"%00hostile", b"small%00hostile", b"small%2f..%2fhostile",
    b"hostile%0d%0aX-Injected:%201", b"%c0%ae%c0%ae%c0%afhostile", b"%ff%fehostile", b"%F0%9F%98%80hostile",
    b"%E2%80%AEhostile", b"hostile" * 4000, b"%68" * 3000, b"C:%5chostile", b"hostile%20", b"*hostile", b"hostile%3f",
    b"%7b%7bhostile%7d%7d", b"file:%2f%2f%2fhostile", b"hostile;x=1", b"[hostile]",
]  # fmt: skip


class Opened:
    """Remembers which files this process opens or lists while it looks."""

    def __init__(self):
        self.names, self.looking = [], False
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.looking and event in {"open", "os.listdir", "os.scandir", "glob.glob", "shutil.copyfile"}:
            self.names.append(repr(arguments[0]))


@pytest.fixture(scope="module")
def opened():
    """Audit hooks cannot be taken away again: one for all tests."""
    return Opened()


def raw(client, method, target, body=b"", headers=b""):
    """An answer to a request whose target is sent as it is: status, headers in lower case, body."""
    with connect(client) as connection:
        head = b"%s %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n"
        connection.sendall(head % (method, target, headers, len(body)) + body)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.lower(), body


def routes_with_names(client):
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method in methods:
            if "{model}" in path:
                yield method.upper().encode(), path.encode()


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: name[:30].decode())
def test_no_name_reaches_the_file_system_or_fails(client, draw_image, opened, name):
    targets = []
    for method, path in routes_with_names(client):
        targets.append((method, path.replace(b"{model}", name).replace(b"{version}", b"1")))
        if b"{version}" in path:
            targets.append((method, path.replace(b"{model}", b"small").replace(b"{version}", name)))
    assert len(targets) > 10
    opened.looking, opened.names = True, []
    try:
        for method, target in targets:
            status, head, body = raw(client, method, target, draw_image() if method == b"POST" else b"")
            assert status in {400, 403, 404}, (method, target[:80], status, body[:200])
            assert b"x-injected" not in head
            assert len(body) < 2000
    finally:
        opened.looking = False
    assert not [name for name in opened.names if "hostile" in name or "hhhh" in name]
    assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200


def test_the_file_watch_of_these_tests_sees_files(opened, tmp_path):
    opened.looking, opened.names = True, []
    (tmp_path / "hostile").write_text("seen")
    opened.looking = False
    assert "hostile" in "".join(opened.names)


OUTSIDE = [
    b"/static-offline-docs/../../../../../../../etc/passwd",
    b"/static-offline-docs/..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    b"/static-offline-docs/%2fetc%2fpasswd",
    b"/static-offline-docs//etc/passwd",
    b"/static-offline-docs/%00",
    b"/docs/..%2f..%2fetc/passwd",
    b"/../etc/passwd",
    b"//etc/passwd",
]
ODD = [b"http://other.example/v1/models", b"*", b"/v1/models?" + b"a=b&" * 7000, b"/v1/models#x", b"/%zz", b"/%"]


@pytest.mark.parametrize("target", OUTSIDE)
def test_files_of_the_documentation_are_all_that_is_served(client, target):
    status, _, body = raw(client, b"GET", target)
    assert status in {400, 404}
    assert b"root:" not in body


@pytest.mark.parametrize("target", ODD, ids=lambda target: target[:24].decode())
def test_odd_targets_are_answered(client, target):
    assert raw(client, b"GET", target)[0] in {200, 400, 404, 422}


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/classify", "/v2", "/nothing", "/docs", "/metrics", "/health/live", "/openapi.json"]
)
def test_every_answer_protects_browsers(client, path):
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "Server" not in headers
    assert not [name for name in headers if name.startswith("access-control")]
    if headers["Content-Type"].startswith("text/html"):
        assert headers["X-Frame-Options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_files_that_do_not_change_may_be_kept(client):
    headers = client.get("/static-offline-docs/swagger-ui.css").headers
    assert "ETag" in headers
    assert "Cache-Control" not in headers
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_documentations_policy_lets_its_page_work_and_nothing_else(client):
    answer = client.get("/docs")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.encode() == content_security_policy(answer.content)
    assert policy.startswith("default-src 'none'; script-src 'self' 'sha256-")
    assert "unsafe" not in policy
    assert len(re.findall(r"<script>", answer.text)) == policy.count("sha256") == 1
    for source in re.findall(r'(?:src|href)="([^"]+)"', answer.text):
        assert source.startswith("/static-offline-docs/")
        assert client.get(source).status_code == 200


def test_the_documentation_can_be_switched_off(serve):
    with serve(docs=False) as client:
        for path in ("/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css", "/redoc"):
            assert client.get(path).status_code == 404
        assert client.get("/v1/models").status_code == 200


async def broken(_):
    raise ZeroDivisionError


def test_an_unforeseen_error_is_protected_too(serve):
    with serve() as client:
        client.app.router.routes.insert(0, Route("/v1/test-broken", broken))
        answer = client.get("/v1/test-broken")
        assert answer.status_code == 500
        assert answer.json()["code"] == "internal"
        assert "zero" not in answer.text
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Request-ID"] == answer.json()["request_id"]


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def until_closed(connection):
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def connect(client):
    return socket.create_connection((client.base_url.host, client.base_url.port), timeout=10)


def test_connections_are_limited_as_the_settings_say(serve, draw_image):
    with serve(header_timeout_s=2, idle_timeout_s=3, max_connections=4) as client:
        started = time.monotonic()
        with connect(client) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nA: ")
            assert b" 408 " in until_closed(connection)
        assert 1.8 < time.monotonic() - started < 8
        held = [connect(client) for _ in range(4)]
        with connect(client) as connection:
            assert b" 503 " in until_closed(connection)
        for connection in held:
            connection.close()
        wait_for(lambda: client.get("/health/live").status_code == 200)
        assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200
        told = client.get("/metrics").text
        for reason in ("too_slow", "too_many_connections"):
            assert f'lccl_rejected_total{{model="",reason="{reason}"}}' in told


@pytest.mark.parametrize(
    ("target", "status"),
    [(b"/v1/classify", 504), (b"/v2/models/small/infer", 504), (b"/v2/repository/index", 408), (b"/nothing", 404)],
)
def test_a_body_that_trickles_in_costs_its_client_the_connection(serve, draw_image, target, status):
    with serve(header_timeout_s=0.5, request_timeout_s=1.0) as client:
        with connect(client) as connection:
            connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" % target)
            connection.settimeout(0.05)
            answer, ended = b"", False
            end = time.monotonic() + 10
            while not ended:
                assert time.monotonic() < end, "the connection is still there"
                try:
                    connection.sendall(b"a")
                    chunk = connection.recv(65536)
                    answer, ended = answer + chunk, not chunk
                except TimeoutError:
                    continue
                except OSError:
                    ended = True
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert client.post("/v1/classify", content=draw_image(), headers=PNG).status_code == 200


@pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
def test_open_files_are_raised_to_what_is_allowed_and_connections_fit(caplog):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 300), hard))
    try:
        assert connections_that_fit(10) == 10
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
        assert not caplog.records
        if hard != resource.RLIM_INFINITY:
            assert connections_that_fit(hard + 1) == hard - OTHER_FILES
            assert "holding" in caplog.text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
