"""What connections may cost."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from ..shares import SHARE
from .admission import AdmissionControl
from .starts import Starts

MANY = 64  # connections of an address; up to here they are never too many


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What connections may cost.

    Attributes:
        connections: how many there may be; more are answered 503, and so are those of an address that has many and
            more than eight times what is left.
        head_s: seconds for a head, from the connection or its first byte; as many for the rest of a body that was
            answered before it was there.
        rest_bytes: of such a body, at most.
        body_s: seconds for a body; longer than any route waits for one.
        idle_s: seconds between two requests; as many in which an answer may make no way to its reader.
        spare: connections that are held beyond the limit to be answered; what comes on top is cut.
        head_bytes: largest head, the trailers of its body included.
        pipelined: requests that may wait behind the one being answered; with one more, the connection ends.
        linger_s: seconds that a client has to read why it was refused, when nothing of its request is to come.
        root_path: prefix that is taken off paths which have it.
        admission: refuses work under overload; the default never does.
        starts: begins requests, under load in turns of their clients; the default at once.
        held: connections of each address.
        left: called for each connection that has ended.

    """

    connections: int
    head_s: float
    body_s: float
    idle_s: float
    spare: int = 64
    head_bytes: int = 32 << 10
    pipelined: int = 8
    linger_s: float = 1.0
    rest_bytes: int = 64 << 20
    root_path: bytes = b""
    admission: AdmissionControl = field(default_factory=AdmissionControl)
    starts: Starts = field(default_factory=Starts)
    held: Counter[str] = field(default_factory=Counter)
    left: Callable[[], None] = lambda: None

    def enter(self, address: str, together: int) -> int:
        """Count a connection of an address; ``together`` there are now.

        Returns:
            how many there are too many, of all or of the address; none where it is not positive.

        """
        self.held[address] += 1
        left, own = self.connections - together, self.held[address]
        return max(-left, own - max(MANY, SHARE * left))

    def leave(self, address: str) -> None:
        """Count one no more."""
        self.held[address] -= 1
        if not self.held[address]:
            del self.held[address]
        self.left()
