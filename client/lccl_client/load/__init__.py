"""A load generator for HTTP servers: open or closed loop, any prepared request, latency from the scheduled time.

    report = run(Plan("http://127.0.0.1:8000", (Stream(…),), Open(rate_per_s=200), duration_s=10))

It does not depend on the LCCL server's protocol. ``python -m lccl_client.load`` is the command ``lccl-client bench``.
"""

from __future__ import annotations

from lccl_client.load.plan import Arrivals, Body, Closed, Open, Plan, Reader, Stream
from lccl_client.load.process import allow_connections, run, run_apart
from lccl_client.load.report import Generator, Mean, Quantiles, Report, Summary
from lccl_client.load.sender import Progress

__all__ = [
    "Arrivals",
    "Body",
    "Closed",
    "Generator",
    "Mean",
    "Open",
    "Plan",
    "Progress",
    "Quantiles",
    "Reader",
    "Report",
    "Stream",
    "Summary",
    "allow_connections",
    "run",
    "run_apart",
]
