"""What a plan refuses before anything is sent."""

from __future__ import annotations

import pytest

from lccl_client.load import Body, Closed, Open, Plan, Stream

ONE = (Body(b"x"),)
GOOD = Stream("a", "POST", "/", {}, ONE)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Stream("a", "POST", "/", {}, ()), "positive weight"),
        (lambda: Stream("a", "POST", "/", {}, ONE, weight=0), "positive weight"),
        (lambda: Stream("a", "POST", "/", {}, ONE, weight=float("nan")), "positive weight"),
        (lambda: Stream("a", "HEAD", "/", {}, ONE), "HEAD"),
        (lambda: Stream("a", "POST", "nowhere", {}, ONE), "not an encoded path"),
        (lambda: Stream("a", "POST", "/a b", {}, ONE), "not an encoded path"),
        (lambda: Open(0), "open load"),
        (lambda: Open(1, concurrency_limit=0), "open load"),
        (lambda: Closed(0), "closed load"),
        (lambda: Plan("http://x", (), Closed(1), 1), "different names"),
        (lambda: Plan("http://x", (GOOD, GOOD), Closed(1), 1), "different names"),
        (lambda: Plan("http://x", (GOOD,), Closed(1), 0), "must be positive"),
        (lambda: Plan("http://x", (GOOD,), Closed(1), 1, warmup_s=-1), "must be positive"),
        (lambda: Plan("http://x", (GOOD,), Closed(1), 1, timeout_s=0), "must be positive"),
        (lambda: Plan("http://x", (GOOD,), Closed(1), 1, read_every=0), "must be positive"),
    ],
)
def test_nonsense_is_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()
