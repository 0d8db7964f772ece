"""Rates that replicas count together in a real Redis, which is killed, stalls and comes back."""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest
import redis
import trustme
from pydantic import SecretStr, ValidationError

from service.api.grpc import messages
from service.auth.rate_limits import RateLimits, parse_rate
from service.auth.shared_rates import CONNECTIONS, PREFIX, SharedRates
from service.errors import ServiceError, StartError
from service.settings import Settings
from tests.service.api.grpc.conftest import connected
from tests.service.api.grpc.conftest import refused as refused_call
from tests.service.conftest import digest
from tests.service.engines import wait_for
from tests.service.refusals import refused

PASSWORD = "s3cret"
GONE = "the store of rates does not answer"


class Store:
    """A Redis that listens on a socket, and asks for a password."""

    def __init__(self, folder, **more):
        self._path, self._more = folder / "redis.sock", {"dir": folder, **more}
        self.address = f"redis+unix://:{PASSWORD}@{self._path}"

    def start(self):
        options = {"port": "0", "unixsocket": self._path, "requirepass": PASSWORD, "save": "", **self._more}
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        self.process = subprocess.Popen(["redis-server", *flags], stdout=subprocess.DEVNULL)
        wait_for(self._answers)

    def _answers(self):
        with suppress(redis.ConnectionError):
            return self.ask("PING")

    def ask(self, *command):
        with redis.Redis(unix_socket_path=str(self._path), password=PASSWORD, decode_responses=True) as client:
            return client.execute_command(*command)

    def end(self):
        self.process.kill()
        self.process.wait()


@contextmanager
def running(folder, **more):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    store = Store(folder, **more)
    store.start()
    try:
        yield store
    finally:
        store.end()


@pytest.fixture(scope="module")
def own_store(tmp_path_factory):
    with running(tmp_path_factory.mktemp("redis")) as store:
        yield store


@pytest.fixture
def store(own_store):
    """The store of this module's tests, up and empty."""
    own_store.process.send_signal(signal.SIGCONT)
    if own_store.process.poll() is not None:
        own_store.start()
    own_store.ask("FLUSHALL")
    return own_store


@asynccontextmanager
async def counting(address, rate):
    """The rates of one replica."""
    rates = SharedRates(SecretStr(address), RateLimits(rate), lambda _: None)
    await rates.look()
    yield rates
    await rates.close()


async def outcome(counted):
    """Whether a request may be answered, or in how many seconds."""
    try:
        await counted
    except ServiceError as error:
        return error.retry_after_s
    return "answered"


GOOD = [
    "redis://store", "redis://store:6379/0", "rediss://user:pa%40ss@store.example.com:6380/1?ssl_ca_certs=/ca.pem",
    "valkey://:secret@10.0.0.1", "valkeys://[::1]:6379", "redis+unix:///run/redis.sock?db=2", "valkey+unix:///a/b",
]  # fmt: skip
BAD = [
    "", "store:6379", "memcached://store", "http://store", "redis://", "redis://store:70000", "redis://store:port",
    "redis://user:pa/s3cret@store", "redis://store/zero", "redis://two words", "redis+unix://", "unix:///run/redis.sock",
    "redis://s3cret@", "redis://store#s3cret", "redis+cluster://store", "redis://store\ns3cret",
]  # fmt: skip


@pytest.mark.parametrize("address", GOOD)
def test_addresses_of_stores_are_taken(address):
    settings = Settings(rate_limit_store=address)
    assert settings.rate_limit_store.get_secret_value() == address
    assert "secret" not in repr(settings)
    SharedRates(settings.rate_limit_store, RateLimits(), lambda _: None)


@pytest.mark.parametrize("address", BAD)
def test_what_is_no_address_is_refused_without_repeating_it(address):
    with pytest.raises(ValidationError) as refusal:
        Settings(rate_limit_store=address)
    (complaint,) = refusal.value.errors()
    assert "write redis://HOST:PORT/0" in complaint["msg"]
    assert "s3cret" not in complaint["msg"]


@pytest.mark.parametrize("query", ["colour=s3cret", "db=s3cret", "protocol=9"])
def test_an_unknown_option_of_an_address_ends_the_start(start, small_folder, query):
    told = start("--models", str(small_folder), "--rate-limit-store", f"redis://:s3cret@store?{query}")
    assert told == "lccl-serve: LCCL_RATE_LIMIT_STORE: the package redis does not take an option after '?'\n"


def test_without_the_package_the_start_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(StartError, match=re.escape("pip install 'lccl[redis]'")):
        SharedRates(SecretStr("redis://store"), RateLimits(), lambda _: None)


def test_two_replicas_let_through_exactly_the_rate_whatever_the_order(store):
    async def count():
        async with counting(store.address, "50/minute") as one, counting(store.address, "50/minute") as two:
            requests = [
                outcome(rates.count(caller)) for _ in range(3 * CONNECTIONS) for rates in (one, two) for caller in "ab"
            ]
            return await asyncio.gather(*requests)

    found = asyncio.run(count())
    assert Counter(found)["answered"] == 100
    assert all(30 < told <= 60 for told in found if told != "answered")  # a busy machine takes its time to ask


def test_a_window_ends_when_the_refusal_said(store):
    async def count():
        async with counting(store.address, "1/second") as rates:
            await rates.count("a")
            after_s = await outcome(rates.count("a"))
            assert 0 < after_s <= 1
            await asyncio.sleep(after_s + 0.001)
            assert await outcome(rates.count("a")) == "answered"

    asyncio.run(count())


def test_a_callers_own_rate_goes_before_the_default_and_without_any_the_store_is_not_asked(store):
    async def count():
        async with counting(store.address, "1/minute") as rates, counting(store.address, "") as free:
            for _ in range(3):
                await rates.count("a", parse_rate("3/minute"))
            with refused("rate_limited", "3 requests in 60 s"):
                await rates.count("a", parse_rate("3/minute"))
            kept = set(store.ask("KEYS", "*"))
            await free.count("b")
            assert set(store.ask("KEYS", "*")) == kept

    asyncio.run(count())


def test_the_store_holds_no_names_and_forgets(store):
    async def count():
        async with counting(store.address, "5/minute") as rates:
            await rates.count("key alice")
            await rates.count("192.0.2.1")

    asyncio.run(count())
    names = store.ask("KEYS", "*")
    assert all(re.fullmatch(PREFIX + r"[0-9a-f]{64}:\d+/\d+", name) for name in names)
    assert all(0 < store.ask("TTL", name) <= 60 for name in names)


def test_a_name_that_would_never_end_is_given_an_end(store):
    async def count():
        async with counting(store.address, "1/minute") as rates:
            await rates.count("a")
            (name,) = store.ask("KEYS", "*:1/60")
            store.ask("PERSIST", name)
            assert 59 < await outcome(rates.count("a")) <= 60
            assert store.ask("TTL", name) in {59, 60}

    asyncio.run(count())


def test_a_store_that_stalls_leaves_the_count_to_each_replica(store, caplog):
    async def count():
        async with counting(store.address, "5/minute") as rates:
            store.process.send_signal(signal.SIGSTOP)
            found = Counter([await outcome(rates.count("a")) == "answered" for _ in range(7)])
            crowd = await asyncio.gather(*(outcome(rates.count(f"caller {n}")) for n in range(4 * CONNECTIONS)))
            store.process.send_signal(signal.SIGCONT)
            return found, crowd

    found, crowd = asyncio.run(count())
    assert found == {True: 5, False: 2}
    assert set(crowd) == {"answered"}
    assert [GONE in record.message for record in caplog.records if record.levelno == logging.WARNING] == [True]


def test_a_request_that_is_given_up_takes_no_other_callers_answer(store):
    async def count():
        async with counting(store.address, "3/minute") as rates:
            await asyncio.gather(*(rates.count("warm") for _ in range(3)))
            store.process.send_signal(signal.SIGSTOP)
            leaving = [asyncio.create_task(rates.count("left")) for _ in range(CONNECTIONS)]
            await asyncio.sleep(0.01)
            for task in leaving:
                task.cancel()
            await asyncio.gather(*leaving, return_exceptions=True)
            store.process.send_signal(signal.SIGCONT)
            await rates.look()
            return [await outcome(rates.count("a")) == "answered" for _ in range(6)]

    assert asyncio.run(count()) == [True] * 3 + [False] * 3


def test_a_store_may_be_asked_over_tls(tmp_path):
    authority, files = trustme.CA(), {name: tmp_path / f"{name}.pem" for name in ("cert", "key", "ca")}
    issued = authority.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(files["cert"])
    issued.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["ca"])
    certificates = {
        "tls-cert-file": files["cert"], "tls-key-file": files["key"], "tls-ca-cert-file": files["ca"],
        "tls-auth-clients": "no",
    }  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

    async def count(address):
        async with counting(address, "1/minute") as rates:
            return [await outcome(rates.count(caller)) == "answered" for caller in "aab"]

    with running(tmp_path, **certificates, **{"tls-port": str(port)}) as store:
        address = f"valkeys://:{PASSWORD}@127.0.0.1:{port}/0"
        assert asyncio.run(count(f"{address}?ssl_ca_certs={files['ca']}")) == [True, False, True]
        assert len(store.ask("KEYS", "*")) == 3
        store.ask("FLUSHALL")
        assert asyncio.run(count(address)) == [True, False, True]  # by itself: it trusts no store of that authority
        assert store.ask("KEYS", "*") == []


def statuses(client, number, **headers):
    return [client.get("/v1/models", headers=headers).status_code for _ in range(number)]


def gauge(client):
    return float(re.search(r"^lccl_rate_limit_store_up (\S+)$", client.get("/metrics").text, re.MULTILINE)[1])


def test_two_services_share_limits_over_http_and_grpc(serve, store, three):
    shared = {"rate_limit_store": store.address, "rate_limit": "4/minute", "api_keys": three, "grpc_port": 0}
    with serve(**shared) as one, serve(**shared) as two, connected(two) as rpc:
        ready = messages.ModelReadyRequest(name="small")
        key = {"X-API-Key": "one"}
        assert statuses(one, 2, **key) + statuses(two, 1, **key) == [200] * 3
        assert rpc.ModelReady(ready, metadata=[("x-api-key", "one")]).ready
        answer = one.get("/v1/models", headers=key)
        assert answer.status_code == 429
        assert 55 <= int(answer.headers["Retry-After"]) <= 60
        with refused_call("RESOURCE_EXHAUSTED", "rate_limited", "4 requests in 60 s") as after:
            rpc.ModelReady(ready, metadata=[("x-api-key", "one")])
        assert 55 <= after[0] <= 60
        assert statuses(two, 1, **key) == [429]
        own = {"X-API-Key": "two"}  # its own rate is two in a minute
        assert [*statuses(one, 1, **own), *statuses(two, 2, **own)] == [200, 200, 429]
        guesses = {"X-API-Key": "guess"}
        assert statuses(one, 2, **guesses) + statuses(two, 3, **guesses) == [401] * 4 + [429]
        assert gauge(one) == gauge(two) == 1
    assert digest("one") not in "".join(store.ask("KEYS", "*"))


def test_a_store_that_is_killed_shuts_nobody_out_and_is_found_again(serve, store, caplog):
    shared = {"rate_limit_store": store.address, "rate_limit": "3/minute"}
    with serve(**shared) as one, serve(**shared) as two:
        assert statuses(one, 2) + statuses(two, 2) == [200, 200, 200, 429]
        store.end()
        for client in (one, two):  # neither is nobody shut out, nor has anybody no limit
            assert statuses(client, 5) == [200] * 3 + [429] * 2
            assert gauge(client) == 0
        gone = [record.message for record in caplog.records if GONE in record.message]
        assert len(gone) == 2  # once for each
        assert PASSWORD not in caplog.text
        store.start()
        for client in (one, two):
            wait_for(lambda client=client: gauge(client) == 1)
        assert statuses(one, 2) + statuses(two, 2) == [200, 200, 200, 429]


@pytest.mark.parametrize("wrong", ["redis://127.0.0.1:1", "password"])
def test_the_service_starts_without_its_store_and_says_why(serve, store, caplog, wrong):
    address = store.address.replace(PASSWORD, "wr0ng") if wrong == "password" else wrong
    with serve(rate_limit_store=address, rate_limit="1/minute") as client:
        assert gauge(client) == 0
        assert statuses(client, 2) == [200, 429]
        assert client.get("/health/ready").status_code == 200
    (told,) = [record.getMessage() for record in caplog.records if GONE in record.message]
    assert ("invalid username-password" if wrong == "password" else "127.0.0.1:1") in told
    assert "wr0ng" not in caplog.text
