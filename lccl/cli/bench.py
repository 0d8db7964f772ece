"""``lccl bench``."""

from pathlib import Path
from typing import Annotated

import typer

from lccl.cli.terminal import MODEL, Threads, console, use_threads


def bench(
    model: Annotated[str, typer.Argument(help=f"{MODEL} A network has fresh weights.")],
    batch: Annotated[int, typer.Option(help="Images per run.")] = 1,
    threads: Threads = 0,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or int8.")] = "fp32",
    skip: Annotated[
        list[float] | None, typer.Option(help="Wanted skip ratio; may be given again. Without it 0.35, 0.5 and 0.7.")
    ] = None,
    rounds: Annotated[int, typer.Option(help="How often every contestant has its turn.")] = 15,
    images: Annotated[
        Path | None,
        typer.Option(help="A data set to take images from; without it 1/f noise, which hardly leaves by early exits."),
    ] = None,
    gate: Annotated[str | None, typer.Option(help="Fresh weights: shared, pointwise, grouped:G[:1x1].")] = None,
    form: Annotated[str | None, typer.Option(help="Fresh weights: post or pre activation.")] = None,
    baselines: Annotated[bool, typer.Option(help="Measure others' dense engines too.")] = True,
    layers: Annotated[bool, typer.Option(help="Time every step too.")] = True,
    out: Annotated[Path | None, typer.Option(help="Write the figures here as JSON.")] = None,
) -> None:
    """Measure what skipping gains on this CPU, beside the plain twin on this and on others' engines."""
    from lccl import provenance
    from lccl.bench.report import showing, tables
    from lccl.bench.run import Options, run
    from lccl.bench.workload import find_images, find_model, make_workload
    from lccl.engines.cpu.cores import usable_cores

    threads = threads or usable_cores()
    options = Options(threads, precision, rounds, baselines=baselines, layers=layers)
    use_threads(threads)
    source = find_model(model, form, gate, precision)
    with console.status("choosing images and thresholds"):
        workload = make_workload(source, find_images(source, images, batch), batch, skip)
    with showing(console) as stages:
        figures = run(workload, options, stages)
    for table in tables(figures):
        console.print(table, "")
    if out is not None:
        console.print(provenance.write(out, figures))
