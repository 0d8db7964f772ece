"""``lccl-client``: measures a server under load."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from lccl_client import load
from lccl_client.bench.inputs import EXACT, drawn, from_folder, parse_rates, stream
from lccl_client.bench.results import generator_lines, read_answer, table
from lccl_client.client import Client
from lccl_client.errors import LcclClientError
from lccl_client.load import Arrivals, Body, Closed, Open, Plan, Report, allow_connections

DEFAULT_IN_FLIGHT = 32

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(soft_wrap=True)  # the terminal wraps long lines; nothing is cut


@app.callback()
def main() -> None:
    """Tools for an LCCL model server."""


@app.command()
def bench(
    url: Annotated[str, typer.Argument(help="The server, such as http://127.0.0.1:8000.")],
    rate: Annotated[
        list[str] | None,
        typer.Option(help="Requests a second: 200, 50,100, 100..400; with an x, as in 0.5..3x, times the capacity."),
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Rates in a range.")] = 6,
    closed: Annotated[
        int, typer.Option(min=0, help="Measure the capacity first, with this many requests at once.")
    ] = 0,
    capacity: Annotated[float, typer.Option(min=0, help="Requests a second that x multiplies; 0 measures it.")] = 0,
    duration: Annotated[float, typer.Option(help="Seconds of each run that count.")] = 10,
    warmup: Annotated[float, typer.Option(help="Seconds of each run before them.")] = 1,
    arrivals: Annotated[Arrivals, typer.Option(help="How requests follow each other.")] = "poisson",
    concurrency_limit: Annotated[int, typer.Option(min=1, help="Maximum number of requests under way.")] = 4096,
    timeout: Annotated[float, typer.Option(help="Seconds after which a request is given up.")] = 30,
    images: Annotated[Path | None, typer.Option(help="Folder of images, or of <class>/<image>.")] = None,
    pictures: Annotated[Path | None, typer.Option(hidden=True)] = None,  # the previous name of --images
    limit: Annotated[int, typer.Option(min=0, help="Take at most this many of them; 0 takes all.")] = 0,
    draw: Annotated[str, typer.Option(help="Without a folder, draw JPEGs of this size.")] = "32x32",
    mix: Annotated[
        list[str] | None, typer.Option(help="A request and its weight: exact:1, sparsity=0.5&max_accuracy_drop=2:3.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A served model; without it the default.")] = None,
    version: Annotated[str | None, typer.Option(help="One of its versions.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="LCCL_API_KEY", help="The server's key.")] = None,
    slo_ms: Annotated[float | None, typer.Option(help="Answers within this many milliseconds are goodput.")] = None,
    read_every: Annotated[int, typer.Option(min=0, help="Read every n-th answer, after the run; 0 reads none.")] = 1,
    seed: Annotated[int, typer.Option(help="Of arrivals, of the mix and of the images.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the reports here.")] = None,
) -> None:
    """Send classification requests at given rates, whatever the server does; latencies count from when each was due."""
    if pictures:
        console.print("[yellow]warning:[/] --pictures is now --images", highlight=False)
    try:
        rates = parse_rates(rate or [], steps)
        if not rates and not closed:
            raise ValueError("say how much load: --rate for an open loop, --closed for the capacity")
        folder = images or pictures
        bodies = from_folder(folder, limit or None, seed) if folder else drawn(draw, seed)
        plan = Plan(
            base_url=url, streams=tuple(stream(text, bodies, model, version, api_key) for text in mix or [EXACT]),
            pace=Closed(closed or DEFAULT_IN_FLIGHT), duration_s=duration, warmup_s=warmup, timeout_s=timeout,
            slo_ms=slo_ms, seed=seed, reader=read_answer if read_every else None, read_every=max(1, read_every),
        )  # fmt: skip
        _check_server(url, api_key, model, bodies)
        allow_connections()
        reports = []
        if closed or (not capacity and any(one.of_capacity for one in rates)):
            reports.append(_run(plan))
            capacity = capacity or reports[0].total.successes_per_s
        for one in rates:
            reports.append(_run(replace(plan, pace=Open(one.per_second(capacity), arrivals, concurrency_limit))))
        _show(url, reports, json_file)
    except (LcclClientError, ValueError, OSError) as error:
        console.print(f"[red]error:[/] {error}", highlight=False)
        raise typer.Exit(1) from error


def _show(url: str, reports: list[Report], json_file: Path | None) -> None:
    console.print(table(reports))
    for report in reports:
        console.print(*generator_lines(report), sep="\n", highlight=False)
    if json_file is not None:
        json_file.write_text(json.dumps({"url": url, "runs": [asdict(report) for report in reports]}, indent=1) + "\n")


def _check_server(url: str, api_key: str | None, model: str | None, bodies: list[Body]) -> None:
    """Fail before the load when the server is not there, or the images' classes are not the model's."""
    with Client(url, api_key) as client:
        name = model or client.models().default
        if name is None:
            raise ValueError("the server's default model is not loaded now: name another with --model")
        labels = client.model(name).labels
    unknown = {body.label for body in bodies if body.label is not None} - set(labels)
    if unknown:
        raise ValueError(
            f"the folder {min(unknown)!r} is no class of the model: its classes are {', '.join(labels[:20])}"
        )


def _run(plan: Plan) -> Report:
    """Run a plan, with a progress bar on a terminal."""
    pace = plan.pace
    name = f"{pace.rate_per_s:.4g}/s" if isinstance(pace, Open) else f"{pace.in_flight} at once"
    # Drawn only when the run reports: a thread that draws by itself would take the interpreter from the sending.
    columns = ("{task.description}", BarColumn(), "{task.fields[state]}", TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=plan.warmup_s + plan.duration_s, state="")

        def show(now: load.Progress) -> None:
            counts = f"{now.ended} ended, {now.in_flight} under way"
            bar.update(task, completed=now.elapsed_s, state=counts, refresh=True)

        return load.run(plan, show)
