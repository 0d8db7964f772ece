"""What is refused, by the code of its error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lccl.errors import LcclError
from service.errors import problem


@contextmanager
def refused(code: str, match: str | None = None) -> Iterator[pytest.ExceptionInfo[LcclError]]:
    """Like ``pytest.raises``, for the error of that code."""
    with pytest.raises(LcclError, match=match) as caught:
        yield caught
    assert problem(caught.value)[0]["code"] == code
