"""When a request that was refused is sent again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lccl_client.errors import LcclServerError, OverloadedError, UnavailableError

DEFAULT_WAIT_S = 1.0
SPREAD = 0.25


@dataclass(frozen=True, slots=True)
class Retries:
    """Sends a request again when the server is overloaded (429) or unavailable (503), after the time that it names.

    Attributes:
        times: how often one request is sent again.
        longest_wait_s: a server that names a longer time is not waited for.

    """

    times: int = 0
    longest_wait_s: float = 30.0

    def __post_init__(self) -> None:
        if self.times < 0 or not self.longest_wait_s >= 0:
            raise ValueError("retries and their longest wait must not be negative")

    def wait_s(self, error: LcclServerError, attempt: int) -> float:
        """Seconds to wait after attempt number ``attempt``, counted from 0.

        Waits are spread by up to a quarter, so that clients refused together do not return together.

        Raises:
            LcclServerError: the error itself, when the request is not sent again.

        """
        asked = DEFAULT_WAIT_S if error.retry_after_s is None else error.retry_after_s
        retryable = isinstance(error, OverloadedError | UnavailableError)
        if not retryable or attempt >= self.times or asked > self.longest_wait_s:
            raise error
        return min(asked * (1 + SPREAD * random.random()), self.longest_wait_s)
