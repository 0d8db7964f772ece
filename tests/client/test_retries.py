"""When a refused request is sent again, without a network."""

from __future__ import annotations

import pytest

from lccl_client.errors import KINDS, LcclServerError
from lccl_client.retries import DEFAULT_WAIT_S, SPREAD, wait_s


def refused(status, retry_after_s=None):
    return KINDS.get((status, ""), LcclServerError)(status, "", "detail", "", retry_after_s)


def is_final(error, attempt, retries, longest_wait_s=30):
    with pytest.raises(type(error)) as caught:
        wait_s(error, attempt, retries, longest_wait_s)
    return caught.value is error


@pytest.mark.parametrize("status", [429, 503])
def test_the_wait_is_at_least_what_the_server_says_and_spread_a_little(status):
    waits = [wait_s(refused(status, 4.0), 0, 3, 30) for _ in range(200)]
    assert min(waits) >= 4
    assert max(waits) <= 4 * (1 + SPREAD)
    assert max(waits) - min(waits) > 0.5


def test_a_server_that_says_nothing_gets_a_default():
    assert wait_s(refused(503), 0, 1, 30) >= DEFAULT_WAIT_S


@pytest.mark.parametrize("status", [400, 401, 404, 413, 415, 422, 500, 504])
def test_other_errors_are_final(status):
    assert is_final(refused(status, 0.0), 0, 3)


def test_attempts_and_waits_end():
    assert wait_s(refused(429, 5.0), 1, 2, 5) == 5
    assert is_final(refused(429, 5.1), 1, 2, 5)
    assert is_final(refused(429, 1.0), 2, 2, 5)
    assert is_final(refused(429, 1.0), 0, 0)
