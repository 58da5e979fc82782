"""`earful train`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from earful.cli import INTERRUPTED, fail
from earful.cli.options import Device


def register(app: typer.Typer) -> None:
    app.command()(train)


FAMILIES = ("voxtral", "kyutai_stt", "mimi", "s2t", "moshi")


def train(
    manifests: Annotated[list[Path], typer.Argument(help="Word-timed manifests (docs/training.md).")],
    start: Annotated[
        str,
        typer.Option(
            help="A checkpoint, or to begin from nothing builtin-en, kyutai-small, mimi-small or s2t-small-en."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run's folder; a run that is there goes on.")],
    steps: Annotated[int, typer.Option(min=1, help="How many in all.")],
    family: Annotated[str, typer.Option(help=f"One of {', '.join(FAMILIES)}.")] = "voxtral",
    tokenizer: Annotated[Path | None, typer.Option(help="A tekken.json or tokenizer.model, from nothing.")] = None,
    codec: Annotated[Path | None, typer.Option(help="A Mimi to hear through, from nothing (kyutai_stt).")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples in a step.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Of audio in an example.")] = None,
    share: Annotated[
        list[str] | None, typer.Option(help="FOLDER=PART: how much to draw from a manifest's folder.")
    ] = None,
    delay: Annotated[
        list[str] | None, typer.Option(help="SLOTS=PART: how often a delay in slots is drawn (voxtral).")
    ] = None,
    delay_s: Annotated[
        float | None, typer.Option(min=0, max=60, help="From a word's start to its text, from nothing (kyutai_stt).")
    ] = None,
    clean: Annotated[float | None, typer.Option(min=0, max=1, help="Share of examples that are not degraded.")] = None,
    hidden: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the frames and ids that are not heard and read (kyutai_stt, s2t)."),
    ] = None,
    masked: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of examples that are masked: SpecAugment (s2t).")
    ] = None,
    cut: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the utterances cut to a few words (not mimi, moshi).")
    ] = None,
    pieces: Annotated[int | None, typer.Option(min=1, help="Of a vocabulary made from the texts (s2t).")] = None,
    languages: Annotated[
        str | None, typer.Option(help="A set of languages, as mustc: each row says which is its text's (s2t).")
    ] = None,
    smoothing: Annotated[
        float | None, typer.Option(min=0, max=0.99, help="How much of a label is spread over all pieces (s2t).")
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="house, or published: Adam, inverse square root (s2t).")] = None,
    versions: Annotated[
        int | None, typer.Option(min=1, help="How often the corpus is mixed and encoded (kyutai_stt).")
    ] = None,
    shifts: Annotated[
        int | None, typer.Option(min=1, help="From how many fractions of a frame on it is encoded (kyutai_stt).")
    ] = None,
    pad_weight: Annotated[
        float | None, typer.Option(min=0, help="Of frames without text in the loss (kyutai_stt, moshi).")
    ] = None,
    first_weight: Annotated[
        float | None, typer.Option(min=0, help="Of the first code of a frame in the loss (moshi).")
    ] = None,
    lora: Annotated[
        int | None, typer.Option(min=1, help="Learn changes of this rank, not all weights (kyutai_stt, moshi).")
    ] = None,
    merge: Annotated[
        bool | None, typer.Option("--merge/--no-merge", help="Whether such changes become part of the weights.")
    ] = None,
    checkpointing: Annotated[
        bool | None, typer.Option("--checkpointing", help="Keep less of a step in memory, compute more (moshi).")
    ] = None,
    codes: Annotated[
        Path | None, typer.Option(help="Where the codes of recordings are kept, to share them (kyutai_stt, moshi).")
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="Where decoded audio is kept, to share it between runs.")] = None,
    matrix_rate: Annotated[float | None, typer.Option(help="Learning rate of the matrices inside the blocks.")] = None,
    other_rate: Annotated[float | None, typer.Option(help="Learning rate of everything else.")] = None,
    average: Annotated[
        int | None, typer.Option(min=0, help="Steps whose mean of the weights is written; 0: the last ones (not mimi).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the examples and of random weights.")] = 0,
    device: Device = "cpu",
    dtype: Annotated[str | None, typer.Option(help="To compute in: bfloat16 or float32.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make examples.")] = 1,
) -> None:
    """Train or fine-tune; Ctrl-C saves, and the same command goes on. Writes OUTPUT/model and OUTPUT/curves.png."""
    from earful.train.run import draw_curves

    if family not in FAMILIES:
        raise typer.BadParameter(f"expected one of {', '.join(FAMILIES)}, got {family!r}", param_hint="--family")
    if dtype not in (None, "bfloat16", "float32"):
        raise typer.BadParameter(f"expected bfloat16 or float32, got {dtype!r}", param_hint="--dtype")
    delays = {int(slots): part for slots, part in _parts(delay or [], "--delay").items()}
    given = {
        "tokenizer": tokenizer, "codec": codec, "batch": batch, "seconds": seconds, "delays": delays or None,
        "delay_s": delay_s, "clean": clean, "hidden": hidden, "masked": masked, "cut": cut,
        "versions": versions, "shifts": shifts, "pad_weight": pad_weight,
        "pieces": pieces, "languages": languages, "smoothing": smoothing, "recipe": recipe,
        "first_weight": first_weight, "checkpointing": checkpointing, "codes": codes,
        "lora": lora, "merge": merge, "matrix_rate": matrix_rate, "other_rate": other_rate, "average": average,
        "dtype": getattr(torch, dtype) if dtype else None, "audio": audio,
    }  # fmt: skip
    run, train_run = _run(
        family,
        {name: value for name, value in given.items() if value is not None},
        start=start,
        manifests=manifests,
        folder=output,
        steps=steps,
        shares=_parts(share or [], "--share"),
        seed=seed,
        device=device,
        workers=workers,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("reading the audio", total=steps)

        def report(row: dict[str, float]) -> None:
            progress.update(task, completed=int(row["step"]), description=f"loss {row['loss']:.3f}")

        try:
            model = train_run(run, report)
        except KeyboardInterrupt:
            raise typer.Exit(fail("stopped: the same command goes on from what is saved", code=INTERRUPTED)) from None
    draw_curves(output, output / "curves.png")
    typer.echo(str(model))


def _run(family: str, given: dict[str, Any], **always: Any) -> tuple[Any, Callable[..., Path]]:
    """What to do and what does it; options that are not given are as the family has them."""
    from earful.train.kyutai_stt import KyutaiSttRun, train_kyutai_stt
    from earful.train.mimi import MimiRun, train_mimi
    from earful.train.moshi import MoshiRun, train_moshi
    from earful.train.run import Run, train_run
    from earful.train.s2t import S2tRun, train_s2t

    kinds: dict[str, tuple[Any, Callable[..., Path]]] = {
        "voxtral": (Run, train_run),
        "kyutai_stt": (KyutaiSttRun, train_kyutai_stt),
        "mimi": (MimiRun, train_mimi),
        "s2t": (S2tRun, train_s2t),
        "moshi": (MoshiRun, train_moshi),
    }
    kind, function = kinds[family]
    foreign = sorted(given.keys() - {field.name for field in fields(kind)})
    if foreign:
        option = foreign[0].removesuffix("s" if foreign[0] == "delays" else "").replace("_", "-")
        raise typer.BadParameter(f"expected no such option for {family}, got one", param_hint=f"--{option}")
    return kind(**always, **given), function


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
