"""`earful eval`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from earful.cli import fail
from earful.cli.options import Delay, Device, Dtype, Model, open_model
from earful.errors import EarfulError


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)


def evaluate(
    manifest: Annotated[Path, typer.Argument(help="JSON lines with audio (or file) and text.")],
    audio: Annotated[
        Path | None, typer.Option(help="Where file names count from.", show_default="the manifest's folder")
    ] = None,
    model: Model = None,
    delay: Delay = None,
    batch: Annotated[int, typer.Option(min=1, help="How many to hear at once.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Rows as JSON lines.")] = False,
    texts: Annotated[bool, typer.Option("--texts", help="Also each reference and what was written.")] = False,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Word error rate against references, by kind; lower case, Whisper's English normaliser."""
    from earful.train.score import hypotheses, read_references, scores

    references = read_references(manifest, audio)
    there = [reference for reference in references if reference.audio.exists()]
    if not there:
        raise EarfulError(f"{manifest}: expected recordings such as {references[0].audio}, got none of them")
    if len(there) < len(references):
        fail(f"{len(references) - len(there)} of {len(references)} recordings are not there and are left out")
    loaded = open_model(model, device, dtype)
    written = dict(
        track(
            hypotheses(loaded, there, batch, delay),
            total=len(there),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
            description="hearing",
        )
    )
    found = scores(there, [written[i] for i in range(len(there))])
    if texts:
        for i, reference in enumerate(there):
            typer.echo(f"{reference.kind}\t{reference.text}\t{written[i]}")
    if as_json:
        for score in found:
            typer.echo(json.dumps({**asdict(score), "speakers": score.speakers or None, "wer": round(score.wer, 4)}))
        return
    table = Table("kind", "WER", "words", "utterances", "speakers", box=None, header_style="bold")
    for score in found:
        table.add_row(
            score.kind, f"{100 * score.wer:.1f} %", *map(str, (score.words, score.utterances, score.speakers or "?"))
        )
    Console().print(table)
