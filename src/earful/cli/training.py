"""`earful train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from earful.cli import INTERRUPTED, fail
from earful.cli.options import Device


def register(app: typer.Typer) -> None:
    app.command()(train)


def train(
    manifests: Annotated[list[Path], typer.Argument(help="Word-timed manifests (docs/training.md).")],
    start: Annotated[str, typer.Option(help="A checkpoint to fine-tune, or builtin-en to begin from nothing.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run's folder; a run that is there goes on.")],
    steps: Annotated[int, typer.Option(min=1, help="How many in all.")],
    tokenizer: Annotated[Path | None, typer.Option(help="A tekken.json, to begin from nothing with.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Examples in a step.")] = 8,
    seconds: Annotated[float, typer.Option(min=1.0, help="Of audio in an example.")] = 12.0,
    share: Annotated[
        list[str] | None, typer.Option(help="FOLDER=PART: how much to draw from a manifest's folder.")
    ] = None,
    delay: Annotated[list[str] | None, typer.Option(help="SLOTS=PART: how often a delay in slots is drawn.")] = None,
    clean: Annotated[float, typer.Option(min=0, max=1, help="Share of examples that are not degraded.")] = 0.15,
    matrix_rate: Annotated[float, typer.Option(help="Learning rate of the matrices inside the blocks.")] = 0.02,
    other_rate: Annotated[float, typer.Option(help="Learning rate of everything else.")] = 2e-3,
    seed: Annotated[int, typer.Option(help="Of the examples and of random weights.")] = 0,
    device: Device = "cpu",
    dtype: Annotated[str, typer.Option(help="To compute in: bfloat16 or float32.")] = "bfloat16",
    workers: Annotated[int, typer.Option(min=0, help="Processes that make examples.")] = 1,
) -> None:
    """Train or fine-tune; Ctrl-C saves, and the same command goes on. Writes OUTPUT/model and OUTPUT/curves.png."""
    from earful.train.run import DELAYS, Run, draw_curves, train_run

    if dtype not in ("bfloat16", "float32"):
        raise typer.BadParameter(f"expected bfloat16 or float32, got {dtype!r}", param_hint="--dtype")
    run = Run(
        start,
        manifests,
        output,
        steps,
        tokenizer=tokenizer,
        shares=_parts(share or [], "--share"),
        delays={int(slots): part for slots, part in _parts(delay or [], "--delay").items()} or DELAYS,
        clean=clean,
        batch=batch,
        seconds=seconds,
        matrix_rate=matrix_rate,
        other_rate=other_rate,
        seed=seed,
        device=device,
        dtype=getattr(torch, dtype),
        workers=workers,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("reading the audio", total=steps)

        def report(row: dict[str, float]) -> None:
            progress.update(task, completed=int(row["step"]), description=f"text loss {row['text']:.3f}")

        try:
            model = train_run(run, report)
        except KeyboardInterrupt:
            raise typer.Exit(fail("stopped: the same command goes on from what is saved", code=INTERRUPTED)) from None
    draw_curves(output, output / "curves.png")
    typer.echo(str(model))


def _parts(listed: list[str], option: str) -> dict[str, float]:
    parts: dict[str, float] = {}
    for item in listed:
        name, _, value = item.rpartition("=")
        try:
            parts[name] = float(value)
        except ValueError:
            name = ""
        if not name or parts[name] < 0 or (option == "--delay" and not name.isdigit()):
            raise typer.BadParameter(f"expected NAME=PART, got {item!r}", param_hint=option)
    return parts
