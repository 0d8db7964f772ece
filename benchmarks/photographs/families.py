"""What is compared: the network that skips, and its rivals, each as candidates at several costs."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.any_sparsity import removals
from benchmarks.photographs.measuring import TWIN, Bench, Candidate, front
from lccl.bundle.format import Bundle
from lccl.train.recipe import read_sizes

GATED, EXITS, GATED_SEVERAL, SEVERAL = "gated", "exits", "gated-several", "several"
SMALLER_NETWORKS = ("resnet14", "resnet10", "resnet18-w48", "resnet18-w32")
SIZES = (160, 144, 128, 112, 96)
BY_SIZE = tuple(f"{TWIN}-{size}" for size in SIZES)
NAMES = (TWIN, GATED, EXITS, GATED_SEVERAL, *SMALLER_NETWORKS, *BY_SIZE, SEVERAL)

SKIPPING, WITH_EXITS, WITH_SIZES = "skipping", "skipping and exits", "skipping and sizes"
OWN = (SKIPPING, WITH_EXITS, WITH_SIZES)
REMOVED, NETWORKS, IMAGES = "branches removed", "smaller networks", "smaller images"
RIVALS = (REMOVED, NETWORKS, IMAGES)


def all_families(bench: Bench) -> dict[str, list[Candidate]]:
    """Each family's candidates whose bundles are there.

    A network that skips offers its table's points as they are. A rival takes what is its best at each cost on the
    choosing part, and so does the network whose images may be smaller.
    """
    bundles, twin = bench.bundles, _whole(TWIN, bench.bundles[TWIN])
    own = {SKIPPING: GATED, WITH_EXITS: EXITS}
    families = {family: list(_points(name, bundles[name])) for family, name in own.items() if name in bundles}
    choices = {
        WITH_SIZES: list(_at_all_sizes(GATED_SEVERAL, bundles)),
        REMOVED: list(_without_branches(bench)) if GATED in bundles else [],
        NETWORKS: [_whole(name, bundles[name]) for name in SMALLER_NETWORKS if name in bundles],
        IMAGES: [
            *(_whole(name, bundles[name]) for name in BY_SIZE if name in bundles), *_at_all_sizes(SEVERAL, bundles)
        ],
    }  # fmt: skip
    for family, candidates in choices.items():
        if candidates:
            offered = candidates if family in OWN or family == REMOVED else [*candidates, twin]
            families[family] = front(bench.positions(offered, "choose"))
    return families


def _whole(name: str, bundle: Bundle) -> Candidate:
    """A plain network at its own size."""
    return Candidate(name, bundle.preprocessing.size, "exact", bundle.table.exact.setting)


def _points(name: str, bundle: Bundle, size: int = 0) -> Iterator[Candidate]:
    """Every operating point at a size, without one at the bundle's own."""
    for point in bundle.table.points:
        yield Candidate(name, size or bundle.preprocessing.size, str(point.name), point.setting)


def _at_all_sizes(name: str, bundles: dict[str, Bundle]) -> Iterator[Candidate]:
    """Every operating point at every size that the bundle was trained for."""
    if name not in bundles:
        return
    recipe = bundles[name].training.recipe or {}
    sizes = read_sizes(recipe["sizes"]) if "," in recipe.get("sizes", "") else [bundles[name].preprocessing.size]
    for size in sizes:
        yield from _points(name, bundles[name], size)


def _without_branches(bench: Bench) -> Iterator[Candidate]:
    """The network with gates, branch after branch removed for all images; no gate's cost is counted."""
    size = bench.bundles[GATED].preprocessing.size
    for fewer in removals(bench.engine(GATED, size), bench.parts(size).choose):
        point = "without " + ", ".join(str(block) for block in sorted(fewer.blocks)) if fewer.blocks else "exact"
        yield Candidate(GATED, size, point, fewer.setting, fewer.macs, fewer.blocks)
