"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from earful.api import SpeechModel, load
from earful.errors import CheckpointError
from earful.stream.transcript import Segment

Model = Annotated[
    str | None, typer.Option("--model", "-m", help="A folder or a hub id.", show_default="the built-in English model")
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.", show_default="as stored")]
Delay = Annotated[
    float | None,
    typer.Option(help="Seconds to hear past a word before it is written.", show_default="the model's own"),
]
Language = Annotated[
    str | None, typer.Option(help="What to write, for a model of several languages.", show_default="the model's own")
]
Align = Annotated[
    bool, typer.Option("--align", help="Word times from where the model looked, in a translation too (Speech2Text).")
]


def open_model(model: str | None, device: str, dtype: str | None) -> SpeechModel:
    """The model that the options name. Raises CheckpointError and ValueError in one line."""
    loaded = load(model, device=device, dtype=dtype)
    if not isinstance(loaded, SpeechModel):
        raise CheckpointError(f"{model}: expected a model that writes text, got a codec")
    return loaded


def chosen(model: SpeechModel, **options: Any) -> dict[str, Any]:
    """The options that are given. Raises ValueError for one that this model does not have."""
    given = {name: value for name, value in options.items() if value not in (None, False)}
    for name in given:
        if name not in ("delay_s", *model.options):
            raise ValueError(f"expected no --{name} with this model, since {model.family} has no such choice, got one")
    return given


def shown(path: str) -> str:
    """The name of a source on one line of a terminal."""
    name = "standard input" if path == "-" else path
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def word_line(word: Segment) -> str:
    """When a word is said, in seconds, and the word."""
    return f"{word.start_s:8.2f} {word.end_s:8.2f}  {word.line}"
