"""How much of a trial there is, and what it showed: requests counted by what became of them, and the faults found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of a run.

    Attributes:
        minutes: of mixed load.
        quick: a look at everything rather than a test of it.

    """

    minutes: float = 10.0
    quick: bool = False

    @property
    def mutations(self) -> int:
        """Malformed bodies made of each kind."""
        return 30 if self.quick else 400


FAILED, TIMEOUT, NOT_SENT = "connection", "timeout", "not_sent"  # as the load generator calls them


@dataclass(slots=True)
class Counts:
    """Requests by what became of them.

    Attributes:
        sent: all that a connection was asked for.
        answered: by HTTP status.
        failed: connections refused, or ended before the answer did.
        abandoned: left by the client on purpose before their answer.
        wrong: answers, counted under ``answered`` too, that are not what they were at rest.

    """

    sent: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    abandoned: int = 0
    wrong: int = 0

    @property
    def lost(self) -> int:
        """Requests that were neither answered nor failed, however long they were waited for."""
        return self.sent - self.answered.total() - self.failed - self.abandoned

    def add(self, other: Counts) -> None:
        self.sent += other.sent
        self.answered += other.answered
        self.failed += other.failed
        self.abandoned += other.abandoned
        self.wrong += other.wrong

    def to_json(self) -> dict[str, Any]:
        return {
            "sent": self.sent,
            "answered": dict(sorted(self.answered.items())),
            "connections_failed": self.failed,
            "abandoned": self.abandoned,
            "wrong": self.wrong,
            "lost": self.lost,
        }


@dataclass(slots=True)
class Outcome:
    """One trial.

    Attributes:
        what: in a sentence what was done.
        figures: what else was measured.
        faults: sentences; without any, and with nothing wrong or lost, the trial is passed.

    """

    what: str
    counts: Counts = field(default_factory=Counts)
    figures: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not (self.faults or self.counts.wrong or self.counts.lost)

    def require(self, condition: bool, fault: str) -> None:
        """Note a fault unless the condition holds."""
        if not condition:
            self.faults.append(fault)

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "seconds": round(self.seconds, 1),
            **self.counts.to_json(),
            **self.figures,
            "faults": self.faults,
            "passed": self.passed,
        }
