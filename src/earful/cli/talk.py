"""`earful talk`: a conversation with a voice that listens while it speaks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Annotated, TextIO

import numpy as np
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text as Styled

from earful.api import SpeechModel
from earful.audio.io import duration_hint, open_audio
from earful.audio.microphone import microphone
from earful.audio.speaker import Speaker, speaker
from earful.audio.wav import writing_wav
from earful.cli import INTERRUPTED, fail
from earful.cli.captions import FLOOR_DB, PAUSE_S, Samples, bars, loudness_db
from earful.cli.codec import prepare
from earful.cli.interrupts import held
from earful.cli.options import Device, Dtype, open_model, shown
from earful.cli.progress import progress_bar
from earful.errors import AudioError, CheckpointError
from earful.events import Audio, Event, Text
from earful.models.moshi.stream import Chance
from earful.stream.session import Session
from earful.stream.transcript import SEGMENT_WIDTH

ADVICE = "use headphones: a loudspeaker makes the model hear itself"
BLOCK_S = 0.08
MOSHI = "kyutai/moshiko-pytorch-bf16"
DEFAULT = Chance()

Show = Callable[[list[Event], bool], None]  # what came, and whether it was the last


def register(app: typer.Typer) -> None:
    app.command()(talk)


def talk(
    source: Annotated[
        str | None,
        typer.Option("--from", help="What is said to it, as fast as it goes.", show_default="the microphone"),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--to", help="The .wav file to write its voice to, or - for standard output.")
    ] = None,
    stereo: Annotated[
        bool, typer.Option("--stereo", help="Both sides in that file: the voice left, you right.")
    ] = False,
    transcript: Annotated[Path | None, typer.Option(help="The file to write its text to.")] = None,
    prompt: Annotated[str, typer.Option(help="What it shall say first.")] = "",
    temperature: Annotated[float, typer.Option(help="Of the voice; 0 takes what is likeliest.")] = DEFAULT.temperature,
    top_k: Annotated[int, typer.Option(help="Codes that chance chooses from.")] = DEFAULT.top_k,
    text_temperature: Annotated[float, typer.Option(help="Of the text.")] = DEFAULT.text_temperature,
    text_top_k: Annotated[int, typer.Option(help="Pieces of text that chance chooses from.")] = DEFAULT.text_top_k,
    seed: Annotated[int, typer.Option(help="The same one says the same again.")] = DEFAULT.seed,
    condition: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, where a model knows conditions.", show_default="none")
    ] = None,
    guidance: Annotated[float, typer.Option(help="How much more it shall sound like them.")] = 1.0,
    device_in: Annotated[
        str | None, typer.Option("--microphone", help="Name or number of a device.", show_default="the system's")
    ] = None,
    device_out: Annotated[
        str | None, typer.Option("--speaker", help="Name or number of a device.", show_default="the system's")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A folder or a hub id.")] = MOSHI,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Talk with a model at the microphone, or let it answer a file. Ctrl-C ends it; what is written so far is whole."""
    check(source, target, stereo)
    prepare(None if transcript is None else str(transcript))
    chance = Chance(temperature, top_k, text_temperature, text_top_k, seed)
    loaded = open_talker(model, device, dtype)
    conditions = dict(_named(item) for item in condition or [])
    session = loaded.stream(chance=chance, prompt=prompt, conditions=conditions, guidance=guidance)
    with ExitStack() as stack:
        player: Speaker | None = None
        if source is not None:
            blocks = begun(open_audio(sys.stdin.buffer if source == "-" else source, loaded.rate_hz))
        else:
            player = stack.enter_context(speaker(loaded.rate_hz, device_out))
            blocks = stack.enter_context(microphone(loaded.rate_hz, BLOCK_S, device_in))
        # Only now, when there is something to hear, are old files written over.
        write: Callable[[Samples], None] = lambda samples: None  # noqa: E731
        if target is not None:
            file = sys.stdout.buffer if target == "-" else target
            write = stack.enter_context(writing_wav(file, loaded.rate_hz, channels=1 + stereo, growing=True))
        lines = stack.enter_context(transcript.open("w", encoding="utf-8") if transcript else nullcontext())
        talked = Conversation(session, Path(model).name, write, stereo, lines, quiet=target == "-")
        code = talked.with_file(source, blocks) if source is not None else talked.aloud(player, blocks)
    raise typer.Exit(code)


def check(source: str | None, target: str | None, stereo: bool) -> None:
    """Find out now, and not after an hour of audio, what cannot be."""
    if source is not None and target is None:
        raise typer.BadParameter("expected --to FILE beside --from, got none")
    if stereo and target is None:
        raise typer.BadParameter("expected --to FILE beside --stereo, got none")
    prepare(target)
    if source not in (None, "-") and target not in (None, "-"):
        here, there = Path(str(source)), Path(str(target))
        if here.exists() and there.exists() and here.samefile(there):
            raise typer.BadParameter("expected another file than that of --from", param_hint="--to")


def open_talker(model: str, device: str, dtype: str | None) -> SpeechModel:
    """Raises CheckpointError for what cannot be loaded or does not talk, ValueError for a device that is not there."""
    loaded = open_model(model, device, dtype)
    if loaded.family != "moshi":
        raise CheckpointError(f"{model}: expected a model that talks, got one that writes text ({loaded.family})")
    return loaded


def _named(item: str) -> tuple[str, str]:
    name, found, value = item.partition("=")
    if not (name and found):
        raise typer.BadParameter(f"expected NAME=VALUE, got {item!r}", param_hint="--condition")
    return name, value


class Conversation:
    """A session with everything that goes in and comes out."""

    def __init__(
        self,
        session: Session,
        name: str,
        write: Callable[[Samples], None],
        stereo: bool,
        transcript: TextIO | None,
        quiet: bool,
    ) -> None:
        """name: of the model. write: of the recording, [N] or, in stereo, [2, N]. quiet: nothing on standard output."""
        self.session, self.name, self.write, self.stereo = session, name, write, stereo
        self.transcript, self.quiet = transcript, quiet
        self.lines = Lines()
        self.speaker: Speaker | None = None
        self.level_db = self.voice_db = FLOOR_DB
        self.behind_s = 0.0
        self._heard = np.zeros(0, np.float32)  # and not yet answered
        self._whole = True  # the session is between two steps

    def with_file(self, source: str, blocks: Iterator[Samples]) -> int:
        """Answer the blocks of a file; returns the exit code. Raises AudioError once what came before is written."""
        rate_hz, broken = self.session.rate_hz, None
        with progress_bar() as progress:
            known = source != "-" and sys.stderr.isatty()
            bar = progress.add_task(Path(shown(source)).name, total=duration_hint(source) if known else None)
            try:
                for block in pieces(blocks, rate_hz):
                    self.hear(block, 0.0, self.print_lines)
                    progress.update(bar, completed=self.session.heard_s)
            except AudioError as error:
                broken = error
            except KeyboardInterrupt:
                self.end(self.print_lines)
                heard = f"{shown(source)}: stopped after {self.session.heard_s:.1f} s"
                return fail(heard, code=INTERRUPTED)
            self.end(self.print_lines)
        if broken is not None:
            raise broken
        return 0

    def aloud(self, player: Speaker | None, blocks: Iterator[Samples]) -> int:
        """Talk at the microphone until Ctrl-C; returns the exit code."""
        self.speaker = player
        print(f"earful: {ADVICE}; Ctrl-C ends", file=sys.stderr)
        with self._display() as show:
            began = time.monotonic()
            try:
                for block in blocks:
                    self.hear(block, time.monotonic() - began, show)
            except KeyboardInterrupt:
                self.end(show)
        return 0

    def hear(self, block: Samples, elapsed_s: float, show: Show) -> None:
        """One block, and what is answered. Ctrl-C waits for it."""
        with held():
            self._whole = False
            events = self.session.feed(block)
            self._whole = True
            if self.stereo:
                self._heard = np.concatenate([self._heard, block])
            self.level_db = loudness_db(block)
            self.behind_s = max(0.0, elapsed_s - self.session.heard_s)
            self._take(events)
            show(events, False)

    def end(self, show: Show) -> None:
        """What the session still has to say; nothing, where a second Ctrl-C struck in the middle of a step."""
        with held():
            events = self.session.finish() if self._whole else []
            self._take(events)
            if self.transcript:
                self.transcript.write("\n")
            show(events, True)

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Audio):
                self._say(event.samples)
            elif isinstance(event, Text) and self.transcript:
                self.transcript.write(event.text)
                self.transcript.flush()

    def _say(self, samples: Samples) -> None:
        self.voice_db = loudness_db(samples)
        if self.speaker:
            self.speaker.play(samples)
        if self.stereo:
            heard, self._heard = np.split(self._heard, [len(samples)])
            self.write(np.stack([samples, heard]))
        else:
            self.write(samples)

    def print_lines(self, events: list[Event], last: bool) -> None:
        for line in self.lines.take(events, self.session.heard_s, last):
            if not self.quiet:
                print(line, flush=True)

    @contextmanager
    def _display(self) -> Iterator[Show]:
        """A picture on a terminal, otherwise lines."""
        if self.quiet or not sys.stdout.isatty():
            yield self.print_lines
            return
        with Live(self.picture(), console=Console(), refresh_per_second=12, transient=True) as live:

            def show(events: list[Event], last: bool) -> None:
                for line in self.lines.take(events, self.session.heard_s, last):  # goes above the picture, and stays
                    live.console.print(Styled(line))
                live.update(self.picture())

            yield show

    def picture(self) -> Group:
        """What is being said, both levels, and how long after a sound its answer is heard."""
        seconds = int(self.session.heard_s)
        latency_s = self.behind_s + (self.speaker.waiting_s if self.speaker else 0.0)
        state = [
            f"you {bars(self.level_db)}",
            f"{self.name} {bars(self.voice_db)}",
            f"{seconds // 60:02}:{seconds % 60:02}",
            f"latency {1000 * latency_s:.0f} ms",
        ]
        return Group(Styled(self.lines.text.strip()), Styled("  ".join(state), style="dim"))


class Lines:
    """What is said, cut into lines: each is done when a pause has lasted or it is full."""

    def __init__(self) -> None:
        self.text = ""  # of the line that is growing
        self._said_s = 0.0

    def take(self, events: list[Event], heard_s: float, last: bool) -> list[str]:
        """What has come after so many seconds; returns the lines that are done by it, all of them with the last."""
        for event in events:
            if isinstance(event, Text):
                self.text += event.text
                self._said_s = heard_s
        done = []
        while len(self.text) > SEGMENT_WIDTH:
            cut = self.text.rfind(" ", 1, SEGMENT_WIDTH + 1)
            cut = cut if cut > 0 else SEGMENT_WIDTH
            done.append(self.text[:cut])
            self.text = self.text[cut:]
        if last or heard_s - self._said_s > PAUSE_S:
            done.append(self.text)
            self.text = ""
        return [line for part in done if (line := " ".join(part.split()))]


def begun(blocks: Iterator[Samples]) -> Iterator[Samples]:
    """The same blocks, the first of which is there: what raises for a source that cannot be read, does so here."""
    return chain([block for block in [next(blocks, None)] if block is not None], blocks)


def pieces(blocks: Iterator[Samples], rate_hz: int) -> Iterator[Samples]:
    """The same in parts of 80 ms at most, so that Ctrl-C need not wait for long."""
    step = round(BLOCK_S * rate_hz)
    for block in blocks:
        for start in range(0, len(block), step):
            yield block[start : start + step]
