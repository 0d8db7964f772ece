"""The page with the papers' tables: published figures beside those of the result files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks import results
from benchmarks.cpu import PAPER
from benchmarks.paper.overview import overview_lines, places
from benchmarks.paper.rows import (
    DATA,
    PRESETS,
    RECIPE,
    RETRAINED,
    RUNS,
    TABLES,
    Budget,
    Published,
    Result,
    Row,
    Table,
    read_all,
    with_twins,
)
from benchmarks.paper.start import NAME
from lccl.calibration.intervals import paired_difference
from lccl.errors import LcclError

PUBLISHED = {
    "macs": "MACs",
    "plain_error": "plain error %",
    "error": "error %",
    "drop": "top-1 drop, points",
    "speed_up": "speed-up %",
    "zeros": "zeros %",
}
HERE = (
    "plain twin, error %", "error %", "difference, points (95 %)", "zeros %", "MACs", "speed-up %", "seeds", "budget"
)  # fmt: skip
REGULARISED = RUNS["resnet20-kind-regularised"].recipe
INTRODUCTION = f"""# The paper's tables

Figures published in "More is Less" (Dong, Huang, Yang, Yan; CVPR 2017) beside those of this project's code.

- **The published network learns; what it is said to save is not reproduced.** Shared gates that begin half open, as
  the released code's do, end at 14.01 % error after 40 epochs over 50,000 images, 1.18 points above the plain twin's
  12.84 % (published, after 164 epochs or more: 8.32 %; He et al.'s plain network: 8.75 %). But 9.8 % of their cells are
  exactly 0 in the end, and not a third: a speed-up of 6 % and not of 35 %.
- **Why.** Half-open gates multiply large values by large ones in every layer, until a few positions outweigh all others
  ([below](#how-gates-begin-and-why)). Four epochs over 20,000 images end with 74.6 % error (twin: 35.4 %), and a third
  of the cells at 0; as the network learns its gates open. Nothing in the loss keeps them shut, and here, unlike in the
  released code, weight decay does not shrink them either: whether that is the difference has not been tried.
- **What it means here.** Gates that begin as 1 ± 0.1 learn at once (four epochs: 34.5 %), and are hardly ever 0. What
  such a network skips, it skips by thresholds, as in the rest of this project: 26 to 50 % of the operations for 0.1 to
  0.7 points.
- All other rows at 40 epochs are *not run*.

This page is written by `python -m benchmarks.paper --table` from the files in `benchmarks/results/paper`, each of which
names the command that made it. The published figures of split convolutions ([spconv.md](spconv.md)) are from "Split to
Be Slim" (Zhang et al.; IJCAI 2020), those of the rivals from the talk on LCCL.

**Budgets differ.** The published networks were trained for 164 to 350 epochs. A row's budget, in its last column, is
epochs × training images, and the data set's name; its plain twin, the same network without gates, was trained with the
same budget. With a smaller budget errors are higher: compare a row with its twin and with its neighbours, not with the
published error. A row without a result says so.

- *error*: on the test images, measured once, after the last epoch; over several seeds mean ± standard deviation. (The
  released code reports its best epoch on the test images.)
- *difference*: error minus the twin's, on the same images, with a 95 % interval (Tango's). It covers only other images,
  not other seeds, and is not narrower with several seeds.
- *zeros*: share of the gated convolutions' cells whose gate is exactly 0 over the test images, weighted by MACs.
- *MACs*: gated multiply-accumulates of the whole network per image, gates included, at threshold 0.
- *speed-up*: 1 − (these MACs) / (the plain twin's MACs). The MACs published for ResNet-20, 32 and 44 follow from the
  published speed-ups in the same way. It is theory, as in the paper; measured times are in
  [cpu-engine.md](cpu-engine.md).
- *Split convolutions* have the plain network, neither gated nor split, as their twin. Their paper counts more than
  multiply-accumulates: four operations per normalised element, pooling and biases, and shortcuts with convolutions.
- *Rivals* (`benchmarks/rivals`) have the plain network as their twin, too. PFEC prunes it and trains what is left for
  half as many epochs more, with a rate that falls from {RETRAINED["lr"]:g} to 0. A multiply-accumulate with binary
  weights counts as a half, one with binary inputs too as a 64th, as their paper counts.

**The recipe** is the same for every row: SGD with Nesterov momentum {RECIPE["momentum"]:g}, batch {RECIPE["batch"]},
weight decay {RECIPE["weight_decay"]:g}, random shifts and flips; no threshold takes part in training, and gates begin
as {RECIPE["gate_shift"]:g} ± {RECIPE["gate_scale"]:g}. Three things differ from the released code. The
learning rate rises from {RECIPE["first_lr"]:g} to {RECIPE["lr"]:g} over the first {RECIPE["warm_up"]:.0%} of the run
and falls to 0 along half a cosine; there it falls in steps. Gates have no weight decay. And `cifar10-jpeg` holds lossy
copies of CIFAR-10's images, 50,000 to train on and 8,000 to test on, whose errors are some points above the originals'.

Unless stated otherwise, blocks are pre-activation, as in the released code; those of ImageNet networks, of split
convolutions and of rivals but XNOR-Net are post-activation. The paper does not state the weight of its regularisation;
here it is {REGULARISED["gate_l1"]:g} × the mean gate value.
"""
PUBLISHED_REAL = {
    network: (row.published.speed_up, 100 * real)
    for network, real in PAPER.items()
    for table in TABLES for row in table.rows if row.run == f"imagenet-{network}-shared"
}  # fmt: skip
MEASURED = [f"paper-{network}{ending}" for network in PUBLISHED_REAL for ending in ("", "-int8")]
REAL = """## Real against theoretical, ImageNet's networks

Time saved against the plain twin, in percent. Published: in theory, and as measured there. Here: fresh weights,
thresholds for the published share of skipped cells, one thread, batch 1, against the twin on the same engine, and
against the fastest other engine (`python -m benchmarks.cpu` with the names `paper-resnet18`, `paper-resnet34`, and
each with `-int8`).

| network | published: in theory, real | here: precision | skip ratio | in theory | real | against the fastest other |
|---|---|---|---|---|---|---|"""
STARTS = """## How gates begin, and why

Kurtosis of the blocks' outputs before the first step, of the nine blocks of ResNet-20 with shared gates, the median of
its channels over {images} training images. 3 is that of normal values. A gate follows its input, so the product of a
convolution and its gate is of second degree in it, and so is each layer after it in what came before: the tails grow
with every layer, normalisation divides by what few positions make of them, and what tells the other images apart
becomes nearly 0 (`python -m benchmarks.paper.start`).

| form | gates begin as | block 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def page(folder: Path) -> str:
    """The whole page as Markdown, from the result files in ``folder``."""
    found = list(read_all(folder))
    tables = (line for table in TABLES for line in table_lines(table, found))
    measured = {name: results.read(f"cpu/{name}") for name in MEASURED}
    overview = overview_lines(places(found))
    return "\n".join([INTRODUCTION, *overview, *start_lines(results.read(NAME)), *tables, *real_lines(measured)])


def real_lines(figures: Mapping[str, dict[str, Any] | None]) -> Iterator[str]:
    """Theory and measured time of the paper's ImageNet networks, as Markdown, from the results by their names."""
    yield REAL
    for network, (theory, real) in PUBLISHED_REAL.items():
        for name in (f"paper-{network}", f"paper-{network}-int8"):
            found = figures[name]
            if found is None:
                yield _line([network, f"{theory:g}, {real:g}", name.rpartition("-")[2], "not run", "", "", ""])
                continue
            reached = next(row for row in found["settings"] if row["skip_wanted"] is not None)
            shares = ("saving_in_theory", "saving", "saving_against_best_baseline")
            yield _line([
                network, f"{theory:g}, {real:g}", found["precision"], f"{reached['skip_reached']:.3f}",
                *("–" if reached[name] is None else f"{100 * reached[name]:.1f}" for name in shares),
            ])  # fmt: skip
    yield ""


def start_lines(figures: dict[str, Any] | None) -> Iterator[str]:
    """How gates begin, as Markdown; nothing without figures."""
    if figures is None:
        return
    rows = (
        _line([row["form"], row["gates"], *(f"{value:,.0f}" for value in row["kurtosis"])]) for row in figures["rows"]
    )
    yield STARTS.format(images=figures["images"]) + "\n".join(rows) + "\n"


def table_lines(table: Table, found: Sequence[Result]) -> Iterator[str]:
    """A heading and a Markdown table: a line for each row and budget, or one that says why there is none."""
    published = [name for name in PUBLISHED if any(getattr(row.published, name) is not None for row in table.rows)]
    heads = ["row", *(f"published: {PUBLISHED[name]}" for name in published), *(f"here: {name}" for name in HERE)]
    yield f"## {table.title}\n"
    yield _line(heads)
    yield "|---" * len(heads) + "|"
    for row in table.rows:
        known = [row.label, *(_known(row.published, name) for name in published)]
        for cells in _here(row, found, every_budget=table.every_budget) or [[why_not(row), *[""] * (len(HERE) - 1)]]:
            yield _line([*known, *cells])
    yield ""


def why_not(row: Row) -> str:
    """Why a row has no result."""
    run = RUNS[row.run]
    if run.data != "cifar10":
        return f"not run: needs {DATA[run.data].title}"
    here = with_twins(RUNS[name] for name in PRESETS["cpu"].runs)
    return "not run" if run in here else "not run: needs a GPU"


def _here(row: Row, results: Sequence[Result], *, every_budget: bool) -> list[list[str]]:
    """The own figures of a row: of its largest budget, or a line for each."""
    mine = [result for result in results if result.run == row.run]
    budgets = sorted({result.budget for result in mine}, key=lambda budget: budget.size)
    if not every_budget:
        budgets = budgets[-1:]
    lines = []
    for budget in budgets:
        runs = [result for result in mine if result.budget == budget]
        twin = RUNS[row.run].twin.name
        twins = {result.seed: result for result in results if (result.run, result.budget) == (twin, budget)}
        pairs = [(twins[run.seed], run) for run in runs if run.seed in twins and run.run != twin]
        lines.append([
            _spread([twin.error for twin, _ in pairs]), _spread([run.error for run in runs]), difference(pairs),
            _spread([run.zeros for run in runs], 1), _macs(mean(run.macs for run in runs)),
            _spread([run.speed_up for run in runs], 1), str(len(runs)), _words(budget),
        ])  # fmt: skip
    return lines


def difference(pairs: Sequence[tuple[Result, Result]]) -> str:
    """Error less the plain twin's in points with its interval, from (twin, run) of each seed.

    Several seeds see the same images: their counts are averaged, not summed.

    Raises:
        LcclError: a run and its twin were tested on different images.

    """
    if not pairs:
        return "–"
    if any(twin.images != run.images for twin, run in pairs):
        raise LcclError(f"{pairs[0][1].run} and its plain twin were tested on different images: train one again")
    lost = mean(int((twin.right & ~run.right).sum()) for twin, run in pairs)
    won = mean(int((run.right & ~twin.right).sum()) for twin, run in pairs)
    trials = len(pairs[0][0].right)
    low, high = paired_difference(round(lost), round(won), trials)
    return f"{100 * (lost - won) / trials:+.2f} ({100 * low:+.2f} – {100 * high:+.2f})"


def _known(published: Published, name: str) -> str:
    value = getattr(published, name)
    if value is None or isinstance(value, str):
        return value or "–"
    if name == "macs":
        return _macs(value)
    return f"{value:.2f}" if name != "speed_up" else f"{value:g}"


def _macs(value: float) -> str:
    """To four digits: 3.2E7."""
    digits, exponent = f"{value:.3E}".split("E+")
    return f"{float(digits):g}E{int(exponent)}"


def _spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and, of several, standard deviation, in percent."""
    if not values:
        return "–"
    percent = [100 * value for value in values]
    return f"{mean(percent):.{digits}f}" + (f" ± {stdev(percent):.{digits}f}" if len(percent) > 1 else "")


def _words(budget: Budget) -> str:
    return f"{budget.words}, {budget.data}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
