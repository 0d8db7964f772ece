"""Rate limits: their text, their windows, their memory, and what a caller over its limit is told."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.auth.rate_limits import RateLimits, parse_rate
from service.auth.windows import OwnWindows
from tests.service.refusals import refused


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.mark.parametrize(
    ("text", "amount", "seconds"),
    [("100/second", 100, 1), ("5 per 10 minutes", 5, 600), ("1/hour", 1, 3600), ("7/2 days", 7, 172_800)],
)
def test_rates_are_read(text, amount, seconds):
    rate = parse_rate(text)
    assert (rate.amount, rate.get_expiry()) == (amount, seconds)


def test_no_text_is_no_limit():
    assert parse_rate("") is None


@pytest.mark.parametrize("text", ["often", "0/second", "-1/second", "1/fortnight", "1/second;9/minute", "1.5/second"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match="rate"):
        parse_rate(text)


def test_a_window_takes_its_requests_and_no_more_until_it_ends():
    clock = Clock()
    limits = RateLimits("3/10 seconds", clock=clock)
    for _ in range(3):
        limits.count("a")
        clock.now += 1
    with refused("rate_limited") as caught:
        limits.count("a")
    assert caught.value.retry_after_s == pytest.approx(7)
    limits.count("b")
    clock.now += caught.value.retry_after_s
    limits.count("a")


def test_a_callers_own_rate_goes_before_the_default():
    limits = RateLimits("1/minute", clock=Clock())
    for _ in range(5):
        limits.count("a", parse_rate("5/minute"))
    with refused("rate_limited"):
        limits.count("a", parse_rate("5/minute"))


def test_without_a_rate_nothing_is_counted():
    limits = RateLimits()
    for _ in range(1000):
        limits.count("a")


def test_memory_is_bounded_and_the_longest_quiet_caller_is_forgotten_first():
    windows = OwnWindows(100)
    limits = RateLimits("10000/minute", windows, Clock())
    once = parse_rate("1/minute")
    for number in range(10_000):
        limits.count("busy")
        limits.count(f"caller {number}", once)
    assert len(windows._windows) == 100
    for caller, rate in (("busy", None), ("caller 9999", once)):
        with refused("rate_limited"):
            limits.count(caller, rate)
    limits.count("caller 0", once)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 5)), max_size=60))
def test_no_window_lets_more_through_than_its_rate(steps):
    clock = Clock()
    limits = RateLimits("3/4 seconds", clock=clock)
    windows = {}
    for caller, pause in steps:
        clock.now += pause
        start, passed = windows.get(caller, (clock.now, 0))
        if clock.now >= start + 4:
            start, passed = clock.now, 0
        if passed < 3:
            limits.count(caller)
            passed += 1
        else:
            with refused("rate_limited") as caught:
                limits.count(caller)
            assert caught.value.retry_after_s == pytest.approx(start + 4 - clock.now)
        windows[caller] = start, passed


def get(client, **headers):
    return client.get("/v1/models", headers=headers)


def test_a_caller_over_its_rate_is_told_when_to_come_back(serve, draw_image):
    with serve(rate_limit="5/minute") as client:
        assert [get(client).status_code for _ in range(5)] == [200] * 5
        for refused in (get(client), client.post("/v1/classify", content=draw_image())):
            assert refused.status_code == 429
            assert refused.json()["code"] == "rate_limited"
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert client.get("/health/ready").status_code == 200
        assert 'reason="rate_limited"} 2.0' in client.get("/metrics").text


def test_addresses_are_told_apart_behind_a_trusted_proxy_only(serve):
    with serve(rate_limit="1/minute", trusted_proxies="127.0.0.0/8") as client:
        assert get(client, **{"X-Forwarded-For": "192.0.2.1"}).status_code == 200
        assert get(client, **{"X-Forwarded-For": "192.0.2.1"}).status_code == 429
        assert get(client, **{"X-Forwarded-For": "192.0.2.2"}).status_code == 200
        assert get(client, **{"X-Forwarded-For": "2001:db8:0:1::1"}).status_code == 200
        assert get(client, **{"X-Forwarded-For": "2001:db8:0:1:2::3"}).status_code == 429  # the same network
        assert get(client, **{"X-Forwarded-For": "::ffff:192.0.2.2"}).status_code == 429
        assert get(client, **{"X-Forwarded-For": "what" * 1000}).status_code == 200
        assert get(client, **{"X-Forwarded-For": "ever" * 1000}).status_code == 429
    with serve(rate_limit="1/minute") as client:
        assert get(client, **{"X-Forwarded-For": "192.0.2.1"}).status_code == 200
        assert get(client, **{"X-Forwarded-For": "192.0.2.2"}).status_code == 429


def test_keys_have_rates_of_their_own_and_guesses_count_too(serve, tmp_path):
    path = tmp_path / "keys.toml"
    one, two = (hashlib.sha256(key).hexdigest() for key in (b"one", b"two"))
    path.write_text(f'[keys.one]\nsha256 = "{one}"\nrate = "3/minute"\n[keys.two]\nsha256 = "{two}"\n')
    path.chmod(0o600)
    with serve(api_keys=path, rate_limit="2/minute") as client:
        statuses = {key: [get(client, **{"X-API-Key": key}).status_code for _ in range(4)] for key in ("one", "two")}
        assert statuses == {"one": [200, 200, 200, 429], "two": [200, 200, 429, 429]}
        guesses = [get(client, **{"X-API-Key": f"guess {number}"}).status_code for number in range(4)]
        assert guesses == [401, 401, 429, 429]
        assert get(client, **{"X-API-Key": "one"}).status_code == 429
