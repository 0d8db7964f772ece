"""Real servers that models are fetched from, each behind a proxy that breaks connections: moto's S3, HTTPS, and a
stand-in for the hub."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import socketserver
import ssl
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

from lccl.bundle.format import save
from service.sources import download
from tests.conftest import random_bundle


class Proxy(socketserver.ThreadingTCPServer):
    """Hands bytes on.

    Attributes:
        cuts: after how many further bytes a connection is cut; each that is takes one of them.
        is_down: whether connections are closed as they come.
        is_stalled: whether nothing is handed on.
        passed: bytes that clients got.

    """

    daemon_threads = True

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), None)
        self.target, self.cuts, self.is_down, self.is_stalled, self.passed = target, [], False, False, 0
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self):
        return f"127.0.0.1:{self.server_address[1]}"

    def finish_request(self, client, _):
        if self.is_down:
            return
        with socket.create_connection(self.target) as server:
            threading.Thread(target=self._hand_on, args=(client, server), daemon=True).start()
            self._hand_on(server, client, answers=True)

    def _hand_on(self, source, sink, answers=False):
        sent = 0
        try:
            while content := source.recv(1 << 14):
                while self.is_stalled:
                    time.sleep(0.01)
                sink.sendall(content)
                if answers:
                    self.passed += len(content)
                    sent += len(content) if self.cuts else 0
                    if self.cuts and sent >= self.cuts[0]:
                        del self.cuts[0]
                        break
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def handle_error(self, *_):
        pass


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(download, "PAUSE_S", 0.001)


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    """Bundles by version, as folders."""
    folder, bundle = tmp_path_factory.mktemp("bundles"), random_bundle()
    for version in ("1", "2"):
        save(replace(bundle, version=version), folder / version)
        (folder / version / "README.md").write_text(f"version {version}")
    return folder


@pytest.fixture
def store(moto, monkeypatch, tmp_path):
    """An empty bucket ``models`` behind a proxy; ``store.put(folder, prefix)`` fills it."""
    boto3 = pytest.importorskip("boto3", reason="boto3 is of the extra test")
    with Proxy(moto) as proxy:
        for name, value in {
            "AWS_ENDPOINT_URL_S3": f"http://{proxy.address}", "AWS_ACCESS_KEY_ID": "somebody", "AWS_MAX_ATTEMPTS": "1",
            "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=f"http://{moto[0]}:{moto[1]}")
        client.create_bucket(Bucket="models")

        def put(folder, prefix):
            for file in folder.iterdir():
                client.put_object(Bucket="models", Key=f"{prefix}/{file.name}".lstrip("/"), Body=file.read_bytes())

        yield SimpleNamespace(client=client, proxy=proxy, put=put)
        for entry in client.list_objects_v2(Bucket="models").get("Contents", ()):
            client.delete_object(Bucket="models", Key=entry["Key"])
        client.delete_bucket(Bucket="models")
        proxy.shutdown()


class Files(BaseHTTPRequestHandler):
    """Serves ``server.files`` by path, parts too, and remembers what was asked for."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Range"], self.headers["Authorization"]))
        path = urlsplit(self.path).path
        if path in self.server.redirects:
            self._answer(302, b"", Location=self.server.redirects[path])
        elif path not in self.server.files:
            self._answer(404, b"")
        else:
            self._file(self.server.files[path])

    def _file(self, content, **headers):
        if self.headers["Range"] is None or not self.server.has_parts:
            return self._answer(200, content, **headers)
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start >= len(content):
            return self._answer(416, b"")
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._answer(206, content[start:], **headers, **{"Content-Range": span})

    def _answer(self, status, content, **headers):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def running(handler, **attributes):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *_: None
    server.asked = []
    for name, value in attributes.items():
        setattr(server, name, value)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """An authority that the system does not know, and a file with its certificate."""
    trustme = pytest.importorskip("trustme", reason="trustme is of the extra test")
    authority, file = trustme.CA(), tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(file)
    return authority, file


@pytest.fixture
def site(authority, monkeypatch):
    """An HTTPS server behind a proxy: ``site.files[path] = content``."""
    known, certificate = authority
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("NETRC", os.devnull)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    known.issue_cert("127.0.0.1").configure_cert(context)
    with running(Files, files={}, redirects={}, has_parts=True) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        with Proxy(server.server_address) as proxy:
            server.proxy = proxy
            yield server
            proxy.shutdown()


class HubApi(Files):
    """A stand-in for the Hugging Face hub: as much of its API as huggingface_hub asks for to list and bring files."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Range"], self.headers["Authorization"]))
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._describe("/".join(parts[2:4]), parts[4], parts[5:])
        repository, commit, path = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        content = self.server.commits.get((repository, commit), {}).get(path)
        if content is None:
            return self._answer(404, b"", **{"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{self._tag(path, content)}"', "X-Repo-Commit": commit}
        sent = self.server.damage(content) if self.command == "GET" else content
        return self._file(sent, **headers)

    do_HEAD = do_GET  # noqa: N815

    def _describe(self, repository, what, rest):
        commit = self.server.branches.get((repository, "/".join(rest)), "/".join(rest))
        files = self.server.commits.get((repository, commit))
        if files is None:
            return self._answer(404, b"{}", **{"X-Error-Code": "RepoNotFound"})
        if what == "revision":
            return self._json({"id": repository, "modelId": repository, "sha": commit, "siblings": []})
        return self._json(
            [
                {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
                | ({"lfs": self._lfs(content)} if is_large(path) else {})
                for path, content in files.items()
            ]
        )

    def _json(self, value):
        return self._answer(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _lfs(self, content):
        return {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}

    def _tag(self, path, content):
        return hashlib.sha256(content).hexdigest() if is_large(path) else git_hash(content)


def is_large(path):
    return path.endswith(".safetensors")


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@pytest.fixture(scope="session")
def _hub_server(tmp_path_factory):
    """One for the whole session: huggingface_hub reads its settings as it is imported."""
    with pytest.MonkeyPatch.context() as patch, running(HubApi) as server, Proxy(server.server_address) as proxy:
        patch.setenv("HF_ENDPOINT", f"http://{proxy.address}")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        patch.setenv("HF_TOKEN", "hf_secret")
        for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
            patch.delitem(sys.modules, name)
        pytest.importorskip("huggingface_hub", reason="huggingface_hub is of the extra test")
        server.proxy = proxy
        yield server
        proxy.shutdown()


@pytest.fixture
def hub(_hub_server):
    """``hub.commit(repository, branch, files)`` adds one."""
    server = _hub_server
    server.commits, server.branches, server.has_parts, server.damage = {}, {}, True, lambda content: content
    server.asked.clear()
    server.proxy.cuts.clear()

    def commit(repository, branch, files):
        name = hashlib.sha1(repr(files).encode()).hexdigest()
        server.commits[repository, name] = files
        server.branches[repository, branch] = name
        return name

    server.commit = commit
    return server


@pytest.fixture
def contents(bundles):
    """A bundle's files by name: ``contents("1")``."""
    return lambda version: {file.name: file.read_bytes() for file in (bundles / version).iterdir()}


@pytest.fixture
def copied(bundles, tmp_path):
    """A folder of models on this machine with model ``local``."""
    shutil.copytree(bundles / "1", tmp_path / "local-models" / "local")
    return tmp_path / "local-models"
