"""Mixed load for minutes: every form of request, overload now and then, malformed bodies and schemathesis beside it."""

from __future__ import annotations

import re
import subprocess
import time

from benchmarks.faults.cases import bad_cases, good_cases
from benchmarks.faults.load import load
from benchmarks.faults.outcome import Outcome
from benchmarks.faults.rest import at_rest, weighted
from benchmarks.faults.scale import Scale
from benchmarks.server import BUILD, HOME, Server

SCHEMATHESIS = HOME / "build" / "schemathesis" / "bin" / "st"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance"
)
RATES_PER_S = (100, 300, 1000)  # the last is more than a small machine can do
MALFORMED = 0.3
ENDS_AFTER_S = 60.0


def mixed(scale: Scale, outcome: Outcome) -> None:
    """All at once."""
    seconds = 60 * scale.minutes
    step_s = min(20.0, seconds / len(RATES_PER_S))
    with Server("mixed", "--self-test-interval-s", "2") as server:
        rest = weighted(at_rest(server.base, good_cases()), MALFORMED, at_rest(server.base, bad_cases(scale.mutations)))
        files, memory = server.open_files(), server.memory_bytes()
        other = _schemathesis(server, seconds)
        try:
            began, step = time.monotonic(), 0
            while time.monotonic() - began < seconds:
                load(server, rest, RATES_PER_S[step % len(RATES_PER_S)], step_s).enter(outcome, rest)
                outcome.require(server.status("/health/live") == 200, f"the server is not alive in step {step}")
                step += 1
            _read_schemathesis(other, outcome)
        finally:
            other.kill()
            other.wait()
        outcome.faults += rest.surprises + server.settled(files)
        outcome.faults += server.errors()
        outcome.faults += server.unready()
        outcome.figures["memory_mib"] = [round(one / 2**20) for one in (memory, server.memory_bytes())]
        outcome.figures["downgraded"] = server.metric("lccl_downgraded_total")


def _schemathesis(server: Server, seconds: float) -> subprocess.Popen[bytes]:
    """Requests made from the API's own description, also such as it forbids, until the time is over.

    Raises:
        RuntimeError: it is not installed.

    """
    if not SCHEMATHESIS.exists():
        raise RuntimeError(f"{SCHEMATHESIS} is missing: `make faults` installs it")
    folder = BUILD / "schemathesis"
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        str(SCHEMATHESIS), "--config-file", str(HOME / "benchmarks" / "faults" / "schemathesis.toml"), "run",
        f"{server.base}/openapi.json", "--max-time", str(max(1, int(seconds))), "--checks", CHECKS,
        "--suppress-health-check", "all", "--continue-on-failure", "--no-shrink", "--generation-database", "none",
    ]  # fmt: skip
    with (BUILD / "schemathesis.log").open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)


def _read_schemathesis(process: subprocess.Popen[bytes], outcome: Outcome) -> None:
    try:
        process.wait(ENDS_AFTER_S)
    except subprocess.TimeoutExpired:
        outcome.faults.append("schemathesis does not end")
        return
    text = (BUILD / "schemathesis.log").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"(\d+) generated", text)
    outcome.figures["schemathesis_cases"] = int(found[1]) if found else 0
    outcome.require(found is not None, "schemathesis sent nothing")
    if process.returncode:
        kinds = re.findall(r"❌ (ST\d+ [^\n]+)", text)
        outcome.faults.append(f"schemathesis found {'; '.join(kinds) or 'a fault'}: see build/faults/schemathesis.log")
