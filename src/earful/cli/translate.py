"""`earful translate`: files in one language to text in another."""

from __future__ import annotations

from typing import Annotated

import typer

from earful.cli.files import Batch, Files, Format, Job, Output, Words, ask
from earful.cli.options import Align, Device, Dtype, chosen, open_model

MULTILINGUAL = "facebook/s2t-medium-mustc-multilingual-st"


def register(app: typer.Typer) -> None:
    app.command()(translate)


def translate(
    files: Files,
    to: Annotated[str, typer.Option("--to", help="The language to write, such as fr.")],
    model: Annotated[str, typer.Option("--model", "-m", help="A folder or a hub id.")] = MULTILINGUAL,
    format: Format = "txt",
    output: Output = None,
    words: Words = False,
    batch: Batch = 1,
    align: Align = False,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Write what is said in files in another language. Everything else is as with transcribe."""
    asked = ask(files, format, output)
    loaded = open_model(model, device, dtype)
    if not loaded.languages:
        raise ValueError(
            f"{model}: expected a model that writes several languages, got {loaded.family} without a choice of them; "
            "earful transcribe writes what it has"
        )
    if to not in loaded.languages:
        raise ValueError(f"{model}: expected a language of {', '.join(loaded.languages)}, got {to}")
    options = chosen(loaded, language=to, align=align)
    raise typer.Exit(Job(loaded, *asked, output, words, options).run(batch))
