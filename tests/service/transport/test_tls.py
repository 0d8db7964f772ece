"""TLS on both ports, with certificates of clients or without, and files that do not fit."""

from __future__ import annotations

import socket
import ssl

import grpc
import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from service.api.grpc import messages
from service.health_check import main as health_check
from tests.service.api.grpc.conftest import Rpc, address_of, ask


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A root, a server's certificate and key, a client's root, certificate and key; and another client's."""
    folder, root, clients, strangers = tmp_path_factory.mktemp("tls"), *(trustme.CA() for _ in range(3))
    made = {name: folder / f"{name}.pem" for name in ("root", "server", "key", "clients", "encrypted")}
    server = root.issue_cert("127.0.0.1", "localhost")
    root.cert_pem.write_to_path(made["root"])
    clients.cert_pem.write_to_path(made["clients"])
    server.cert_chain_pems[0].write_to_path(made["server"])
    server.private_key_pem.write_to_path(made["key"])
    secret = serialization.BestAvailableEncryption(b"secret")
    key = serialization.load_pem_private_key(server.private_key_pem.bytes(), None)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    made["encrypted"].write_bytes(key.private_bytes(pem, pkcs8, secret))
    for name, issuer in (("client", clients), ("stranger", strangers)):
        issued, made[name] = issuer.issue_cert("client@example.org"), folder / f"{name}.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(made[name])
    return made


def context_of(files, name=None):
    context = ssl.create_default_context(cafile=files["root"])
    if name is not None:
        context.load_cert_chain(files[name])
    return context


def credentials_of(files, name=None):
    own = files[name].read_bytes() if name else None
    return grpc.ssl_channel_credentials(files["root"].read_bytes(), own, own)


def flags(files, **more):
    return {"tls_certificate": files["server"], "tls_key": files["key"], "grpc_port": 0, **more}


def ask_both(client, files, image, name=None):
    base = str(client.base_url).replace("http://", "https://")
    with httpx.Client(base_url=base, verify=context_of(files, name), timeout=20) as https:
        for _ in range(3):
            answer = https.post("/v1/classify", content=image, headers={"Content-Type": "image/png"})
            assert answer.status_code == 200
    rpc = Rpc(address_of(client), credentials_of(files, name))
    assert rpc.ModelInfer(ask([image]), timeout=20).outputs
    rpc.close()


def test_both_ports_are_encrypted(serve, files, draw_image):
    with serve(**flags(files)) as client:
        ask_both(client, files, draw_image())
        with pytest.raises(httpx.TransportError):
            client.get("/health/live")
        plain = Rpc(address_of(client))
        with pytest.raises(grpc.RpcError) as error:
            plain.ServerLive(messages.ServerLiveRequest(), timeout=10)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        plain.close()


def test_clients_need_a_certificate_of_the_given_root(serve, files, draw_image):
    with serve(**flags(files, tls_client_ca=files["clients"])) as client:
        ask_both(client, files, draw_image(), "client")
        base = str(client.base_url).replace("http://", "https://")
        for name in (None, "stranger"):
            with pytest.raises(httpx.TransportError), httpx.Client(verify=context_of(files, name)) as https:
                https.get(f"{base}/health/live")
            rpc = Rpc(address_of(client), credentials_of(files, name))
            with pytest.raises(grpc.RpcError) as error:
                rpc.ServerLive(messages.ServerLiveRequest(), timeout=10)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE
            rpc.close()


def test_a_refused_upload_is_answered_over_tls(serve, files):
    with serve(**flags(files, max_body_bytes=2048)) as client:
        base = str(client.base_url).replace("http://", "https://")
        with httpx.Client(base_url=base, verify=context_of(files), timeout=20) as https:
            assert https.post("/v1/classify", content=bytes(1 << 20)).status_code == 413
            assert https.get("/health/ready").status_code == 200


def test_a_client_that_stays_does_not_hold_up_the_end(serve, files):
    with serve(**flags(files, drain_timeout_s=30)) as client:
        address = ("127.0.0.1", client.base_url.port)
        with (
            socket.create_connection(address) as bare,
            context_of(files).wrap_socket(bare, server_hostname="127.0.0.1") as one,
        ):
            one.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert one.recv(12) == b"HTTP/1.1 200"
            client.stop()
            client.thread.join(15)
            assert not client.thread.is_alive()


@pytest.mark.parametrize("mutual", [False, True])
def test_the_health_check_of_the_image_asks_over_tls(serve, files, monkeypatch, mutual):
    with serve(**flags(files, **({"tls_client_ca": files["root"]} if mutual else {}))) as client:
        monkeypatch.setenv("LCCL_PORT", str(client.base_url.port))
        monkeypatch.setenv("LCCL_TLS_CERTIFICATE", str(files["server"]))
        monkeypatch.setenv("LCCL_TLS_KEY", str(files["key"]))
        health_check()


@pytest.mark.parametrize(
    ("certificate", "key", "client_ca", "says"),
    [
        ("missing", "key", None, "missing.pem: No such file"),
        ("server", "missing", None, "missing.pem: No such file"),
        ("server", "root", None, "are no certificate and the unencrypted key"),
        ("server", "encrypted", None, "are no certificate and the unencrypted key"),
        ("key", "key", None, "are no certificate and the unencrypted key"),
        ("server", "key", "missing", "missing.pem: No such file"),
        ("server", "key", "key", "key.pem: holds no certificates"),
        ("server", "key", "text", "text.pem: is no PEM file"),
    ],
)
def test_files_that_do_not_fit_end_the_start_with_a_sentence(start, files, certificate, key, client_ca, says):
    folder = files["root"].parent
    (folder / "text.pem").write_text("hello")
    given = {"certificate": certificate, "key": key, "client-ca": client_ca}
    told = [part for name, file in given.items() if file for part in (f"--tls-{name}", str(folder / f"{file}.pem"))]
    assert says in start("--models", str(folder), *told)
