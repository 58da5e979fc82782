"""`earful listen`: live captions."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text as Styled

from earful.audio.io import open_audio
from earful.audio.microphone import microphone
from earful.cli import INTERRUPTED
from earful.cli.options import Delay, Device, Dtype, Model, open_model
from earful.events import Event, Text, Word

BLOCK_S = 0.08
SHOWN_CHARACTERS = 700  # how much of the captions stays on the screen
FRESH_S = 1.2  # how long a word counts as new
PAUSE_S = 1.0  # a silence between words that ends a line in a pipe
LINE_CHARACTERS = 300  # at which a line in a pipe ends anyway
FLOOR_DB = -60.0
METER = "▁▂▃▄▅▆▇█"

Samples = npt.NDArray[np.float32]


def register(app: typer.Typer) -> None:
    app.command()(listen)


def listen(
    source: Annotated[
        str | None, typer.Option("--from", help="Play a file as if it were spoken now.", show_default="the microphone")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="With --from: without waiting.")] = False,
    format: Annotated[str, typer.Option("--format", "-f", help="txt, or jsonl: an event a line.")] = "txt",
    device_in: Annotated[
        str | None, typer.Option("--microphone", help="Name or number of a device.", show_default="the system's")
    ] = None,
    model: Model = None,
    delay: Delay = None,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Write down what is said while it is said. Ctrl-C ends it, and what is still inside the delay is written."""
    if format not in ("txt", "jsonl"):
        raise typer.BadParameter(f"expected txt or jsonl, got {format!r}", param_hint="--format")
    if fast and source is None:
        raise typer.BadParameter("expected --from FILE beside --fast, got none")
    loaded = open_model(model, device, dtype)
    session = loaded.stream(delay_s=delay)
    captions = Captions(Path(model).name if model else "built-in English", delay)
    code = 0
    with ExitStack() as stack:
        if source is not None:
            blocks = played(source, loaded.rate_hz, fast)
        else:
            blocks = stack.enter_context(microphone(loaded.rate_hz, BLOCK_S, device_in))
        show = stack.enter_context(_display(captions, format))
        began = time.monotonic()
        try:
            for block in blocks:
                events = session.feed(block)
                captions.heard(block, loaded.rate_hz, 0.0 if fast else time.monotonic() - began)
                captions.take(events)
                show(events)
        except KeyboardInterrupt:
            code = INTERRUPTED if source is not None else 0
        finally:
            events = session.finish()
            captions.take(events)
            captions.finished = True
            show(events)
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


@dataclass
class Captions:
    """What the screen shows of a session; of what was said long ago it forgets."""

    model: str
    delay_s: float | None
    text: str = ""
    arrivals: deque[tuple[float, int]] = field(default_factory=deque)  # when, and how many characters came, of late
    heard_s: float = 0.0
    lag_s: float = 0.0
    level_db: float = FLOOR_DB
    finished: bool = False

    def heard(self, block: Samples, rate_hz: int, elapsed_s: float) -> None:
        self.heard_s += len(block) / rate_hz
        self.lag_s = max(0.0, elapsed_s - self.heard_s)
        power = float(np.mean(np.square(block, dtype=np.float64))) if len(block) else 0.0
        self.level_db = max(FLOOR_DB, 10 * np.log10(power + 1e-12))
        while self.arrivals and self.arrivals[0][0] < self.heard_s - FRESH_S:
            self.arrivals.popleft()

    def take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Text):
                self.text = (self.text + event.text)[-SHOWN_CHARACTERS:]
                self.arrivals.append((self.heard_s, len(event.text)))

    def picture(self) -> Group:
        fresh = 0 if self.finished else sum(count for _, count in self.arrivals)
        settled = max(0, len(self.text) - fresh)
        said = Styled(self.text[:settled]) + Styled(self.text[settled:], style="bold cyan")
        share = (self.level_db - FLOOR_DB) / -FLOOR_DB
        bars = "".join(METER[min(len(METER) - 1, i)] if i / len(METER) < share else " " for i in range(len(METER)))
        minutes, seconds = divmod(int(self.heard_s), 60)
        state = f"{bars} {minutes:02}:{seconds:02}  {self.model}"
        state += f"  delay {self.delay_s:g} s" if self.delay_s is not None else ""
        state += f"  behind {self.lag_s * 1000:.0f} ms" if not self.finished else "  done"
        return Group(said, Styled(state, style="dim"))


def _display(captions: Captions, format: str) -> Any:
    """A context whose value shows what has come: live on a terminal, lines or events in a pipe."""
    if format == "jsonl":
        return nullcontext(_print_events)
    return _OnScreen(captions) if sys.stdout.isatty() else _Lines()


class _Lines:
    """A line for each stretch of speech."""

    def __init__(self) -> None:
        self.line, self.end_s = "", 0.0

    def __enter__(self) -> Any:
        return self.show

    def show(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Word):
                if event.start_s - self.end_s > PAUSE_S or len(self.line) + len(event.text) >= LINE_CHARACTERS:
                    self.end_line()
                self.line = f"{self.line} {event.text}".strip()
                self.end_s = event.end_s

    def end_line(self) -> None:
        if self.line:
            print(self.line, flush=True)
        self.line = ""

    def __exit__(self, *error: Any) -> None:
        self.end_line()


class _OnScreen:
    def __init__(self, captions: Captions) -> None:
        self.captions = captions
        self.live = Live(captions.picture(), console=Console(), refresh_per_second=12)

    def __enter__(self) -> Any:
        self.live.__enter__()
        return lambda events: self.live.update(self.captions.picture())

    def __exit__(self, *error: Any) -> None:
        self.live.__exit__(*error)


def _print_events(events: list[Event]) -> None:
    for event in events:
        if isinstance(event, (Text, Word)):
            fields = {k: round(v, 3) if isinstance(v, float) else v for k, v in asdict(event).items()}
            print(json.dumps({"type": type(event).__name__.lower(), **fields}, ensure_ascii=False), flush=True)
