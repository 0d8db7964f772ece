"""What pytest's own report says of a run, in the form that lets an engine be chosen on a GPU model."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

KINDS = ("passed", "failed", "errors", "skipped")


def counts(report: Path) -> dict[str, int]:
    """Tests by outcome in a JUnit file; one error where there is none, for then pytest did not finish."""
    try:
        suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    except (OSError, ElementTree.ParseError):
        return dict.fromkeys(KINDS, 0) | {"errors": 1}
    total = {
        name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    }
    bad = total["failures"] + total["errors"] + total["skipped"]
    return {
        "passed": total["tests"] - bad,
        "failed": total["failures"],
        "errors": total["errors"],
        "skipped": total["skipped"],
    }


def proves(verdict: dict[str, Any]) -> bool:
    """Whether tests ran, and all that ran passed."""
    return bool(verdict["passed"] > 0 and verdict["failed"] == verdict["errors"] == 0)
