"""`earful transcribe`: files, folders and standard input to text."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.progress import TaskID

from earful.api import Outcome, SpeechModel
from earful.audio.io import duration_hint
from earful.checkpoint.files import replacing
from earful.cli import INTERRUPTED, fail
from earful.cli.interrupts import held
from earful.cli.options import Align, Delay, Device, Dtype, Language, Model, chosen, open_model, shown, word_line
from earful.cli.progress import progress_bar
from earful.errors import CheckpointError, EarfulError
from earful.events import Event
from earful.stream.pieces import joined
from earful.stream.transcript import FORMATS, Growing, Segment, Transcript

SUFFIXES = {
    ".aac", ".aif", ".aiff", ".au", ".avi", ".caf", ".flac", ".g722", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov",
    ".mp2", ".mp3", ".mp4", ".mpeg", ".mpg", ".oga", ".ogg", ".opus", ".ts", ".wav", ".webm", ".wma", ".wmv",
}  # fmt: skip
ONE_FILE = {"srt", "vtt", "tsv"}  # formats in which two transcripts cannot follow each other


def register(app: typer.Typer) -> None:
    app.command()(transcribe)


Files = Annotated[list[str], typer.Argument(help="Audio or video files, folders of them, or - for standard input.")]
Format = Annotated[str, typer.Option("--format", "-f", help=f"One or more of {','.join(FORMATS)}.")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="A folder to write files to.")]
Words = Annotated[bool, typer.Option("--words", help="A line or a subtitle for each word.")]
Batch = Annotated[int, typer.Option(min=1, help="How many files to hear at once.")]


def transcribe(
    files: Files,
    model: Model = None,
    format: Format = "txt",
    output: Output = None,
    words: Words = False,
    batch: Batch = 1,
    delay: Delay = None,
    language: Language = None,
    align: Align = False,
    device: Device = "cpu",
    dtype: Dtype = None,
) -> None:
    """Write down what is said in files. Text goes to standard output, or with --output to a file for each."""
    asked = ask(files, format, output)
    loaded = open_model(model, device, dtype)
    options = chosen(loaded, delay_s=delay, language=language, align=align)
    raise typer.Exit(Job(loaded, *asked, output, words, options).run(batch))


def ask(files: Sequence[str], format: str, output: Path | None) -> tuple[list[str], list[str]]:
    """The sources and the formats that are meant; raises BadParameter for what cannot be, and makes the folder."""
    formats = _formats(format, output)
    sources = expand(files)
    if not sources:
        raise typer.BadParameter(f"expected audio or video in {', '.join(files)}, got none")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # an error now is better than after an hour of audio
    _check_printable(formats, output, len(sources))
    return sources, formats


def _formats(listed: str, output: Path | None) -> list[str]:
    formats = list(dict.fromkeys(name.strip() for name in listed.split(",")))
    for name in formats:
        if name not in FORMATS:
            raise typer.BadParameter(f"expected {', '.join(FORMATS)}, got {name!r}", param_hint="--format")
    if len(formats) > 1 and output is None:
        raise typer.BadParameter(f"expected --output FOLDER for {len(formats)} formats, got none")
    return formats


def _check_printable(formats: Sequence[str], output: Path | None, count: int) -> None:
    if output is None and count > 1 and formats[0] in ONE_FILE:
        raise typer.BadParameter(f"expected --output FOLDER for {count} files in {formats[0]}, got none")


def expand(names: Sequence[str]) -> list[str]:
    """The files that are meant: a folder stands for all audio and video below it, in order."""
    found: list[str] = []
    for name in names:
        if name != "-" and Path(name).is_dir():
            inside = sorted(path for path in Path(name).rglob("*") if not path.name.startswith("."))
            found += [str(path) for path in inside if path.suffix.lower() in SUFFIXES and path.is_file()]
        else:
            found.append(name)
    there: dict[str, str] = {}
    for name in found:
        there.setdefault(name if name == "-" else os.path.abspath(name), name)
    return list(there.values())


def stems(sources: Sequence[str]) -> list[str]:
    """What the output of each source is called, below one folder.

    Its name without the suffix; where two share that, also the folders below the one that all are in; where two in a
    folder do, also the suffix.
    """
    whole = [Path(os.path.abspath("stdin" if source == "-" else source)) for source in sources]
    above = Path(os.path.commonpath([path.parent for path in whole]))
    below = [path.relative_to(above) for path in whole]
    candidates = ([path.stem for path in below], [str(path.with_suffix("")) for path in below])
    for names in candidates:
        if len({name.casefold() for name in names}) == len(names):  # some disks take A and a for the same
            return names
    return [str(path) for path in below]


@dataclass
class Job:
    """One call of `earful transcribe` or `translate`."""

    model: SpeechModel
    sources: Sequence[str]
    formats: Sequence[str]
    output: Path | None
    words: bool
    options: dict[str, Any]
    failed: list[str] = field(default_factory=list)
    heard: dict[int, Heard] = field(default_factory=dict)  # of what is not done yet
    done: dict[int, Transcript | None] = field(default_factory=dict)  # waiting for those before them; None: failed
    printed: int = 0

    def run(self, batch: int) -> int:
        """Transcribe everything; returns the exit code."""
        opened: list[str | BinaryIO] = [sys.stdin.buffer if s == "-" else s for s in self.sources]
        with progress_bar() as progress:
            bars: dict[int, TaskID] = {}

            def on_events(number: int, events: list[Event], heard_s: float) -> None:
                with held():
                    if number not in bars:
                        bars[number] = progress.add_task(self._label(number), total=self._seconds(number))
                    progress.update(bars[number], completed=heard_s)
                    self._hear(number, events, heard_s)

            try:
                for number, outcome in self.model.outcomes(opened, batch=batch, on_events=on_events, **self.options):
                    with held():
                        if number in bars:
                            progress.remove_task(bars.pop(number))
                        self._take(number, outcome)
            except KeyboardInterrupt:
                return self._stop()
        if len(self.failed) > 1 or (self.failed and len(self.sources) > 1):
            fail(f"{len(self.failed)} of {len(self.sources)} failed: {', '.join(self.failed)}")
        return 1 if self.failed else 0

    @property
    def live(self) -> bool:
        """Whether text is printed as soon as it is settled."""
        return len(self.sources) == 1 and self.output is None and self.formats[0] == "txt" and not self.words

    def _hear(self, number: int, events: list[Event], heard_s: float) -> None:
        heard = self.heard.setdefault(number, Heard())
        heard.seconds = heard_s
        if self.model.by_piece or not heard.parts:
            heard.parts.append([])
        heard.parts[-1] += events
        if self.live:
            _print_lines(heard.growing.take(events))
            if self.model.by_piece:
                _print_lines(heard.growing.rest(heard_s))

    def _take(self, number: int, outcome: Outcome) -> None:
        heard = self.heard.pop(number, Heard())
        if outcome.error is None or outcome.transcript.duration_s:
            self._deliver(number, outcome.transcript, heard)
        else:
            self.done[number] = None
        if outcome.error is not None:
            self._fail(number, outcome.error)
        self._print_waiting()

    def _stop(self) -> int:
        """Ctrl-C: give what there is of everything that was begun."""
        if not self.heard:
            raise KeyboardInterrupt
        for number, heard in self.heard.items():
            language = self.options.get("language") or self.model.language
            self._deliver(number, joined(heard.parts, language, heard.seconds), heard)
            fail(f"{shown(self.sources[number])}: stopped after {heard.seconds:.1f} s")
        self._print_waiting(everything=True)
        return INTERRUPTED

    def _fail(self, number: int, error: EarfulError) -> None:
        name = shown(self.sources[number])
        if name not in self.failed:
            self.failed.append(name)
        fail(str(error))

    def _deliver(self, number: int, transcript: Transcript, heard: Heard) -> None:
        if self.live:
            _print_lines(heard.growing.rest(transcript.duration_s))
        elif self.output is None:
            self.done[number] = transcript
        else:
            self._write(number, self.output, transcript)

    def _write(self, number: int, folder: Path, transcript: Transcript) -> None:
        chosen = transcript.by_word() if self.words else transcript
        for name in self.formats:
            try:
                with replacing(folder / f"{self.stems[number]}.{name}") as temporary:
                    temporary.write_text(FORMATS[name](chosen), encoding="utf-8")
            except CheckpointError as error:
                self._fail(number, error)

    @cached_property
    def stems(self) -> list[str]:
        return stems(self.sources)

    def _print_waiting(self, everything: bool = False) -> None:
        """Print what is done, in the order of the command line."""
        while self.done and (everything or self.printed in self.done):
            transcript = self.done.pop(self.printed, None)
            if transcript is not None:
                print(self._printable(self.printed, transcript), end="", flush=True)
            self.printed += 1

    def _printable(self, number: int, transcript: Transcript) -> str:
        chosen = transcript.by_word() if self.words else transcript
        format, name = self.formats[0], shown(self.sources[number])
        text = FORMATS[format](chosen)
        if self.words and format == "txt":
            text = "".join(f"{word_line(segment)}\n" for segment in chosen.segments)
        if len(self.sources) == 1:
            return text
        if format == "txt":
            return f"==> {name} <==\n{text}"
        documents = [text] if format == "json" else text.splitlines()
        return "".join(json.dumps({"file": name, **json.loads(d)}, ensure_ascii=False) + "\n" for d in documents)

    def _label(self, number: int) -> str:
        name = Path(shown(self.sources[number])).name
        return f"{number + 1}/{len(self.sources)} {name}" if len(self.sources) > 1 else name

    def _seconds(self, number: int) -> float | None:
        source = self.sources[number]
        return None if source == "-" or not sys.stderr.isatty() else duration_hint(source)


def _print_lines(segments: Iterable[Segment]) -> None:
    for segment in segments:
        print(segment.line, flush=True)


@dataclass
class Heard:
    """What has come of a file that is not done."""

    parts: list[list[Event]] = field(default_factory=list)  # of each piece, where there are pieces
    growing: Growing = field(default_factory=Growing)
    seconds: float = 0.0
