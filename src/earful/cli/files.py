"""`earful transcribe`: files, folders and standard input to text."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from earful.api import Outcome, SpeechModel
from earful.audio.io import duration_hint
from earful.checkpoint.files import replacing
from earful.cli import INTERRUPTED, fail
from earful.cli.options import Delay, Device, Dtype, Model, open_model, shown
from earful.errors import CheckpointError, EarfulError
from earful.events import Event, Text, Word
from earful.stream.transcript import FORMATS, Transcript

SUFFIXES = {
    ".aac", ".aif", ".aiff", ".au", ".avi", ".caf", ".flac", ".g722", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov",
    ".mp2", ".mp3", ".mp4", ".mpeg", ".mpg", ".oga", ".ogg", ".opus", ".ts", ".wav", ".webm", ".wma", ".wmv",
}  # fmt: skip


def register(app: typer.Typer) -> None:
    app.command()(transcribe)


def transcribe(
    files: Annotated[list[str], typer.Argument(help="Audio or video files, folders of them, or - for standard input.")],
    model: Model = None,
    format: Annotated[str, typer.Option("--format", "-f", help=f"One or more of {','.join(FORMATS)}.")] = "txt",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A folder to write files to.")] = None,
    words: Annotated[bool, typer.Option("--words", help="A line or a subtitle for each word.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="How many files to hear at once.")] = 1,
    delay: Delay = None,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Write down what is said in files. Text goes to standard output, or with --output to a file for each."""
    formats = _formats(format, output)
    sources = expand(files)
    if not sources:
        raise typer.BadParameter(f"expected audio or video in {', '.join(files)}, got none")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # an error now is better than after an hour of audio
    loaded = open_model(model, device, dtype)
    live = len(sources) == 1 and formats == ["txt"] and not (output or words) and sys.stdout.isatty()
    job = Job(loaded, sources, formats, output, words, live=live)
    raise typer.Exit(job.run(batch, delay))


def _formats(listed: str, output: Path | None) -> list[str]:
    formats = list(dict.fromkeys(name.strip() for name in listed.split(",")))
    for name in formats:
        if name not in FORMATS:
            raise typer.BadParameter(f"expected {', '.join(FORMATS)}, got {name!r}", param_hint="--format")
    if len(formats) > 1 and output is None:
        raise typer.BadParameter(f"expected --output FOLDER for {len(formats)} formats, got none")
    return formats


def expand(names: Sequence[str]) -> list[str]:
    """The files that are meant: a folder stands for all audio and video below it, in order."""
    found: list[str] = []
    for name in names:
        if name != "-" and Path(name).is_dir():
            inside = sorted(Path(name).rglob("*"))
            found += [str(path) for path in inside if path.suffix.lower() in SUFFIXES and path.is_file()]
        else:
            found.append(name)
    return list(dict.fromkeys(found))


def stems(sources: Sequence[str]) -> list[str]:
    """What the output of each source is called: its name without the suffix, with as much more as tells it apart."""
    plain = [Path("stdin" if s == "-" else s) for s in sources]
    names = [path.stem for path in plain]
    names = [path.name if names.count(name) > 1 else name for path, name in zip(plain, names, strict=True)]
    taken: set[str] = set()
    unique = []
    for name in names:
        number, chosen = 1, name
        while chosen in taken:
            number += 1
            chosen = f"{name}-{number}"
        taken.add(chosen)
        unique.append(chosen)
    return unique


@dataclass
class Job:
    """One call of `earful transcribe`."""

    model: SpeechModel
    sources: Sequence[str]
    formats: Sequence[str]
    output: Path | None
    words: bool
    live: bool  # print pieces of text as soon as they are known
    failed: list[str] = field(default_factory=list)
    done: dict[int, Transcript | None] = field(default_factory=dict)  # waiting for those before them; None: failed
    printed: int = 0

    def run(self, batch: int, delay: float | None) -> int:
        opened: list[str | BinaryIO] = [sys.stdin.buffer if s == "-" else s for s in self.sources]
        heard: dict[int, tuple[list[Event], float]] = {}  # of what is not done yet
        with self._progress() as progress:
            tasks = [progress.add_task(shown(s), total=self._seconds(s)) for s in self.sources]

            def on_events(number: int, events: list[Event], heard_s: float) -> None:
                before, _ = heard.get(number, ([], 0.0))
                heard[number] = (before + events, heard_s)
                progress.update(tasks[number], completed=heard_s)
                if self.live:
                    print("".join(e.text for e in events if isinstance(e, Text)), end="", flush=True)

            try:
                for number, outcome in self.model.outcomes(opened, batch=batch, delay_s=delay, on_events=on_events):
                    heard.pop(number, None)
                    progress.update(
                        tasks[number], total=outcome.transcript.duration_s or 1, completed=outcome.transcript.duration_s
                    )
                    self._take(number, outcome)
            except KeyboardInterrupt:
                for number, (events, heard_s) in heard.items():
                    self._deliver(number, _so_far(events, self.model.language, heard_s))
                    fail(f"{shown(self.sources[number])}: stopped after {heard_s:.1f} s")
                self._print_waiting(everything=True)
                if not heard:
                    raise
                return INTERRUPTED
        if len(self.failed) > 1 or (self.failed and len(self.sources) > 1):
            fail(f"{len(self.failed)} of {len(self.sources)} failed: {', '.join(self.failed)}")
        return 1 if self.failed else 0

    def _take(self, number: int, outcome: Outcome) -> None:
        if outcome.error is None or outcome.transcript.duration_s:
            self._deliver(number, outcome.transcript)
        else:
            self.done[number] = None
        if outcome.error is not None:
            self._fail(number, outcome.error)
        self._print_waiting()

    def _fail(self, number: int, error: EarfulError) -> None:
        name = shown(self.sources[number])
        if name not in self.failed:
            self.failed.append(name)
        fail(str(error))

    def _deliver(self, number: int, transcript: Transcript) -> None:
        self.done[number] = transcript
        if self.output is None:
            return
        chosen = transcript.by_word() if self.words else transcript
        for name in self.formats:
            path = self.output / f"{stems(self.sources)[number]}.{name}"
            try:
                with replacing(path) as temporary:
                    temporary.write_text(FORMATS[name](chosen), encoding="utf-8")
            except CheckpointError as error:
                self._fail(number, error)

    def _print_waiting(self, everything: bool = False) -> None:
        """Print what is done, in the order of the command line."""
        while self.output is None and self.done and (everything or self.printed in self.done):
            transcript = self.done.pop(self.printed, None)
            self.printed += 1
            if transcript is not None:
                print(self._printable(transcript), end="", flush=True)

    def _printable(self, transcript: Transcript) -> str:
        if self.live:  # all but the end of the line is there already
            return "\n" if transcript.text else ""
        chosen = transcript.by_word() if self.words else transcript
        if self.words and self.formats == ["txt"]:
            return "".join(f"{s.start_s:8.2f} {s.end_s:8.2f}  {s.text}\n" for s in chosen.segments)
        return FORMATS[self.formats[0]](chosen)

    def _seconds(self, source: str) -> float | None:
        if source == "-" or not sys.stderr.isatty():
            return None
        return duration_hint(source)

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        quiet = not sys.stderr.isatty() or (self.live and sys.stdout.isatty())
        console = Console(stderr=True)
        # Text for the terminal goes above the bar; text for a file or a pipe must not come here.
        return Progress(*columns, console=console, transient=True, disable=quiet, redirect_stdout=sys.stdout.isatty())


def _so_far(events: Iterable[Event], language: str | None, heard_s: float) -> Transcript:
    events = list(events)
    text = "".join(event.text for event in events if isinstance(event, Text))
    return Transcript.of(text, [event for event in events if isinstance(event, Word)], language, heard_s)
