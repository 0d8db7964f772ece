"""A served instance in a process of its own, local servers that answer as told, and both clients as one fixture."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lccl_client import AsyncClient, Client
from tests.served import served


@pytest.fixture(scope="session")
def address(models_folder, early_folder, tmp_path_factory):
    """The test models served with small limits, ``small`` by default; the base URL of their server."""
    models = tmp_path_factory.mktemp("client")
    for folder in (*models_folder.iterdir(), *early_folder.iterdir()):
        (models / folder.name).symlink_to(folder)
    limits = ("--max-images", "8", "--max-body-bytes", "1000000", "--max-pixels", "1000000")
    # Without brown-outs a busy machine does not change what a request gets.
    with served("--models", str(models), "--default-model", "small", "--brownout", "false", *limits) as base:
        yield base


@pytest.fixture(scope="session")
def guarded(models_folder):
    """The same behind an API key, with room for one small upload at a time; its base URL."""
    flags = ("--models", str(models_folder), "--api-key", "s3cret", "--max-body-bytes", "8192")
    with served(*flags, "--max-inflight-bytes", "8192") as base:
        yield base


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Ask a server with either client: ``ask(base_url, "classify", image, sparsity=0.3)``."""

    def call(base_url, method, *arguments, settings=None, **options):
        if request.param == "sync":
            with Client(base_url, **(settings or {})) as client:
                return getattr(client, method)(*arguments, **options)

        async def run():
            async with AsyncClient(base_url, **(settings or {})) as client:
                return await getattr(client, method)(*arguments, **options)

        return asyncio.run(run())

    return call


@contextmanager
def answering(answer):
    """A real HTTP/1.1 server on a free port that lets ``answer(handler)`` write each answer; yields its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def handle_one_request(self):
            try:
                super().handle_one_request()
            except ConnectionError:
                self.close_connection = True

        def do_POST(self):
            self.content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer(self)
            self.wfile.flush()

        do_GET = do_POST  # noqa: N815 - the base class's names

        def reply(self, status=200, content=b"{}", **headers):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads, block_on_close, request_queue_size = True, False, 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(name="answering")
def _answering():
    return answering
