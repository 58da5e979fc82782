"""`earful listen`: live captions."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text as Styled

from earful.audio.io import open_audio
from earful.audio.microphone import microphone
from earful.cli import INTERRUPTED
from earful.cli.captions import Captions, Samples
from earful.cli.interrupts import held
from earful.cli.options import Align, Delay, Device, Dtype, Language, Model, chosen, open_model, word_line
from earful.errors import AudioError
from earful.events import Event, Pause, Text, Word
from earful.stream.transcript import Segment

BLOCK_S = 0.08

Show = Callable[[list[Event], bool], None]  # what came, and whether it was the last


def register(app: typer.Typer) -> None:
    app.command()(listen)


def listen(
    source: Annotated[
        str | None, typer.Option("--from", help="Play a file as if it were spoken now.", show_default="the microphone")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="With --from: without waiting.")] = False,
    format: Annotated[str, typer.Option("--format", "-f", help="txt, or jsonl: an event a line.")] = "txt",
    words: Annotated[bool, typer.Option("--words", help="A line for each word, with its time.")] = False,
    device_in: Annotated[
        str | None, typer.Option("--microphone", help="Name or number of a device.", show_default="the system's")
    ] = None,
    model: Model = None,
    delay: Delay = None,
    language: Language = None,
    align: Align = False,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Write down what is said while it is said. Ctrl-C ends it, and what is still inside the delay is written."""
    if format not in ("txt", "jsonl"):
        raise typer.BadParameter(f"expected txt or jsonl, got {format!r}", param_hint="--format")
    if fast and source is None:
        raise typer.BadParameter("expected --from FILE beside --fast, got none")
    loaded = open_model(model, device, dtype)
    session = loaded.stream(**chosen(loaded, delay_s=delay, language=language, align=align))
    captions = Captions(
        Path(model).name if model else "built-in English", loaded.delay_s if delay is None else delay, fast
    )
    code, broken = 0, None
    with ExitStack() as stack:
        if source is not None:
            blocks = played(source, loaded.rate_hz, fast)
        else:
            blocks = stack.enter_context(microphone(loaded.rate_hz, BLOCK_S, device_in))
        show = stack.enter_context(_display(captions, format, words))
        began = time.monotonic()
        try:
            for block in blocks:
                with held():
                    events = session.feed(block)
                    captions.heard(block, loaded.rate_hz, time.monotonic() - began)
                    show(events, False)
        except KeyboardInterrupt:
            code = INTERRUPTED if source is not None else 0
        except AudioError as error:
            broken = error
        with held():
            show(session.finish(), True)
    if broken is not None:
        raise broken
    raise typer.Exit(code)


def played(source: str, rate_hz: int, fast: bool) -> Iterator[Samples]:
    """The blocks of a file, each when it would have been spoken."""
    step = round(BLOCK_S * rate_hz)
    began, position = time.monotonic(), 0
    for block in open_audio(sys.stdin.buffer if source == "-" else source, rate_hz):
        for start in range(0, len(block), step):
            piece = block[start : start + step].astype(np.float32)
            position += len(piece)
            if not fast:
                time.sleep(max(0.0, began + position / rate_hz - time.monotonic()))
            yield piece


@contextmanager
def _display(captions: Captions, format: str, words: bool) -> Iterator[Show]:
    """What shows the events as they come: a picture on a terminal, otherwise lines."""
    if format == "jsonl":
        yield lambda events, last: _print_lines(_json(e) for e in events if isinstance(e, (Text, Word, Pause)))
    elif words:
        yield lambda events, last: _print_lines(_words(events))
    elif not sys.stdout.isatty():
        yield lambda events, last: _print_lines(captions.take(events, last))
    else:
        with Live(captions.picture(), console=Console(), refresh_per_second=12, transient=True) as live:

            def show(events: list[Event], last: bool) -> None:
                for line in captions.take(events, last):  # goes above the picture, and stays
                    live.console.print(Styled(line))
                live.update(captions.picture())

            yield show


def _words(events: list[Event]) -> Iterator[str]:
    words = (event for event in events if isinstance(event, Word))
    return (word_line(Segment(word.text, word.start_s, word.end_s)) for word in words)


def _json(event: Text | Word | Pause) -> str:
    fields = {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(event).items()}
    return json.dumps({"type": type(event).__name__.lower(), **fields}, ensure_ascii=False)


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, flush=True)
