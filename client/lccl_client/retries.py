"""When a request that was refused is sent again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lccl_client.errors import LcclServerError, OverloadedError, UnavailableError

UNSAID_WAIT_S = 1.0
SPREAD = 0.25


@dataclass(frozen=True, slots=True)
class Retries:
    """Retry what is overloaded (429) or unavailable (503), after the time that the server names.

    Attributes:
        times: how often one request is sent again.
        longest_wait_s: a server that names a longer time is not waited for.

    """

    times: int = 0
    longest_wait_s: float = 30.0

    def __post_init__(self) -> None:
        if self.times < 0 or not self.longest_wait_s >= 0:
            raise ValueError("retries and their longest wait must not be negative")

    def wait_s(self, error: LcclServerError, attempt: int) -> float | None:
        """Seconds to wait after the attempt of that number (the first is 0); None gives up.

        Waits are spread to a quarter more, so that clients refused together do not come back together.
        """
        if attempt >= self.times or not isinstance(error, OverloadedError | UnavailableError):
            return None
        asked = UNSAID_WAIT_S if error.retry_after_s is None else error.retry_after_s
        if asked > self.longest_wait_s:
            return None
        return min(asked * (1 + SPREAD * random.random()), self.longest_wait_s)
