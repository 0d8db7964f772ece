"""Everything that the talk and the papers name, in one table and one picture: points lost over operations saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import results
from benchmarks.models import paired
from benchmarks.paper.rows import ROWS, RUNS, Published, Result
from benchmarks.rivals.timing import OWN, RESULT
from benchmarks.training_tables import table

PLAIN_ERROR = 8.75  # of ResNet-20, He et al. 2016
CURVES = {"gates": "LCCL, thresholds", "exits": "SideNets"}
WORK = (0.7, 0.5)  # at which those curves are shown
TRAINED = "52 × 40,000"  # the shipped network, and the plain twin that it is held against
CIFAR, LARGE, LARGER = "ResNet-20, CIFAR-10", "ResNet-18, ImageNet", "ResNet-34, ImageNet"
METHODS = (
    ("LCCL, gates exactly 0", "resnet20-shared", CIFAR),
    ("SPConv 1/2", "resnet20-spconv-1-2", CIFAR),
    ("SPConv 1/4", "resnet20-spconv-1-4", CIFAR),
    ("PFEC", "resnet20-pfec-24", LARGER),
    ("PFEC", "resnet20-pfec-35", ""),
    ("BWN", "resnet20-bwn", LARGE),
    ("XNOR-Net", "resnet20-xnor", LARGE),
)
HEADS = (
    "method", "published: saved %, points lost", "here: saved %", "points lost (95 %)", "time saved %", "trained for"
)  # fmt: skip
TEXT = """## All of it: points lost over operations saved

![points lost over operations saved](paper.svg)

Points lost are those of accuracy on the test images against the plain ResNet-20 of the same budget. *Published* is
what the talk and the papers state, for the network in brackets. *Time saved* is measured on the native engine in fp32,
with batches of 32 on two threads, against the plain network (`python -m benchmarks.rivals.timing DATA`); that engine
runs no split convolutions and has no kernels for binary weights. Thresholds and SideNets are those of the shipped
`resnet20-cifar10`, one set of weights for all its rows (`python -m benchmarks.early_exits DATA`), against a plain twin
of its budget.
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a method stands.

    Attributes:
        saved: operations, as a share of the plain network's; None where it was not trained.
        lost: percentage points of accuracy.
        interval: of ``lost``, 95 %; empty without.
        time_saved: share of the plain network's time; None where it was not measured.
        published: operations saved and points lost, both in percent, and the network; None without.

    """

    method: str
    saved: float | None = None
    lost: float | None = None
    interval: tuple[float, ...] = ()
    time_saved: float | None = None
    published: tuple[float, float, str] | None = None
    budget: str = "not run"


def places(found: Sequence[Result]) -> list[Place]:
    """All methods, from the results of the paper's rows and of the shipped network."""
    timed = results.read(RESULT)
    return [*(_row(*method, found, timed) for method in METHODS), *_shipped(timed)]


def overview_lines(all_places: Sequence[Place]) -> Iterator[str]:
    """The section as Markdown."""
    yield TEXT
    yield from table(*HEADS)
    for place in all_places:
        known = place.published
        interval = f" ({place.interval[0]:+.2f} – {place.interval[1]:+.2f})" if place.interval else ""
        cells = [
            place.method,
            f"{known[0]:.0f}, {known[1]:+.2f} ({known[2]})" if known else "–",
            "–" if place.saved is None else f"{100 * place.saved:.1f}",
            "–" if place.lost is None else f"{place.lost:+.2f}{interval}",
            "–" if place.time_saved is None else f"{100 * place.time_saved:.1f}",
            place.budget,
        ]
        yield "| " + " | ".join(cells) + " |"
    yield ""


def _row(method: str, run: str, where: str, found: Sequence[Result], timed: dict[str, Any] | None) -> Place:
    """A method whose network is a row of the paper's tables: the result of its largest budget."""
    known = _known(run)
    published = (*known, where) if known else None
    rows = {} if timed is None else {row["what"]: row for row in timed["rows"]}
    time = rows.get(RUNS[run].rival)
    time_saved = None if time is None else 1 - time["time"]
    pairs = [
        (twin, mine)
        for mine in found if mine.run == run
        for twin in found if (twin.run, twin.budget, twin.seed) == (RUNS[run].twin.name, mine.budget, mine.seed)
    ]  # fmt: skip
    if not pairs:
        return Place(method, time["saved"] if time else None, time_saved=time_saved, published=published)
    twin, mine = max(pairs, key=lambda pair: pair[1].budget.size)
    lost, interval = paired(twin.right, mine.right)
    return Place(method, mine.speed_up, lost, tuple(interval), time_saved, published, mine.budget.words)


def _known(run: str) -> tuple[float, float] | None:
    """Operations saved and points lost as published, in percent; None where a paper does not say."""
    for row in (row for row in ROWS if row.run == run):
        published = row.published
        lost = published.drop
        if lost is None and published.error is not None:
            lost = published.error - (PLAIN_ERROR if published.plain_error is None else published.plain_error)
        saved = published.speed_up if published.speed_up is not None else _saved(published)
        if lost is not None and saved is not None:
            return saved, lost
    return None


def _saved(published: Published) -> float | None:
    """From the operations that the split convolutions' paper counts."""
    (plain,) = (row.published.macs for row in ROWS if row.run == "resnet20-post-plain")
    return None if published.macs is None or plain is None else 100 * (1 - published.macs / plain)


def _shipped(timed: dict[str, Any] | None) -> Iterator[Place]:
    """Thresholds alone, SideNets alone, and both, of the shipped network."""
    compared, exits = results.read("any_sparsity"), results.read("early_exits")
    if compared is None or exits is None:
        return
    twin = compared["twin"]["accuracy"]
    curves = {row["work"]: row for row in exits["curves"]}
    for name, method in CURVES.items():
        for work in WORK:
            yield Place(method, 1 - work, 100 * (twin - curves[work][name]), budget=TRAINED)
    for row in timed["rows"] if timed else ():
        if "accuracy" in row:
            yield Place(OWN, row["saved"], 100 * (twin - row["accuracy"]), (), 1 - row["time"], budget=TRAINED)
