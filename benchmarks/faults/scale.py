"""How much of each trial there is."""

from __future__ import annotations

from dataclasses import dataclass


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
