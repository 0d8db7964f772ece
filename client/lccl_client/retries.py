"""When a request that was refused is sent again."""

from __future__ import annotations

import random

from lccl_client.errors import LcclServerError, OverloadedError, UnavailableError

DEFAULT_WAIT_S = 1.0
SPREAD = 0.25


def wait_s(error: LcclServerError, attempt: int, retries: int, longest_wait_s: float) -> float:
    """Seconds to wait before an overloaded (429) or unavailable (503) server is asked again: what it names, or 1 s.

    Waits are spread by up to a quarter, so that clients refused together do not return together.

    Args:
        error: what the server answered.
        attempt: the number of the attempt that it answered, from 0.
        retries: how often one request is sent again.
        longest_wait_s: a server that names a longer time is not waited for.

    Raises:
        LcclServerError: the error itself, when the request is not sent again.

    """
    asked = DEFAULT_WAIT_S if error.retry_after_s is None else error.retry_after_s
    retryable = isinstance(error, OverloadedError | UnavailableError)
    if not retryable or attempt >= retries or asked > longest_wait_s:
        raise error
    return min(asked * (1 + SPREAD * random.random()), longest_wait_s)
