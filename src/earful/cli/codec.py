"""`earful codec`: audio to codes and back."""

from __future__ import annotations

import hashlib
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, BinaryIO, TextIO

import numpy as np
import numpy.typing as npt
import typer

from earful.api import CodecModel, load
from earful.audio.io import duration_hint, open_audio
from earful.audio.wav import writing_wav
from earful.checkpoint.codes import About, read_codes, type_of, write_codes
from earful.cli import INTERRUPTED, fail
from earful.cli.interrupts import held
from earful.cli.options import Device, shown
from earful.cli.progress import progress_bar
from earful.errors import AudioError, CheckpointError, EarfulError

Samples = npt.NDArray[np.float32]
BATCH = 16  # frames to a part, or some more: Ctrl-C waits for the end of one

Codec = Annotated[str, typer.Option("--model", "-m", help="A folder or a hub id.")]
Codebooks = Annotated[
    int | None, typer.Option(min=1, help="Codes to a frame; fewer are coarser.", show_default="as many as there are")
]
Audio = Annotated[str, typer.Argument(help="An audio or video file, or - for standard input.")]
MIMI = "kyutai/mimi"


def register(app: typer.Typer) -> None:
    codec = typer.Typer(help="Audio to the codes of a neural codec, and back.", rich_markup_mode=None)
    for command in (encode, decode, roundtrip):
        codec.command()(command)
    app.add_typer(codec, name="codec")


def encode(
    source: Audio,
    target: Annotated[str, typer.Argument(help="The .safetensors file to write, or - for standard output.")],
    model: Codec = MIMI,
    codebooks: Codebooks = None,
    device: Device = "cpu",
) -> None:
    """Write audio as codes."""
    prepare(target)
    codec = open_codec(model, device)
    stream = codec.encode_stream(codebooks)
    parts, small = [], type_of(codec.model.config.codebook_size)
    heard = hear(source, codec, lambda block: parts.append(stream.feed(block).astype(small)))
    with held():
        if heard.whole:
            parts.append(stream.finish().astype(small))
        codes = np.concatenate(parts, axis=1)
        samples = min(heard.samples, codes.shape[1] * codec.frame_samples)
        with written_to(target) as path:
            write_codes(path, codes, about(codec, model, samples))
        report(source, target, codec, samples, len(codes))
    raise typer.Exit(heard.end())


def decode(
    source: Annotated[str, typer.Argument(help="A file that `earful codec encode` wrote, or - for standard input.")],
    target: Annotated[str, typer.Argument(help="The .wav file to write, or - for standard output.")],
    model: Codec = MIMI,
    device: Device = "cpu",
) -> None:
    """Write codes as audio."""
    prepare(target)
    with read_from(source) as path:
        codes, said = read_codes(path)
    codec = open_codec(model, device)
    expected = about(codec, model, said.samples)
    if said != replace(expected, model=said.model):  # a codec may go by several names
        raise CheckpointError(f"{shown(source)}: expected codes of {model}, got codes of another codec, {said.model}")
    stream, heard = codec.decode_stream(), Heard(source, codec.rate_hz)
    with progress_bar() as progress, wav(target, codec.rate_hz, said.samples) as write:
        bar = progress.add_task(Path(shown(source)).name, total=codes.shape[1])
        try:
            for begin in range(0, codes.shape[1], BATCH):
                with held():
                    samples = stream.feed(codes[:, begin : begin + BATCH])[: said.samples - heard.samples]
                    write(samples)
                    heard.samples += len(samples)
                    progress.advance(bar, BATCH)
        except KeyboardInterrupt:
            heard.stop()
    report(source, target, codec, heard.samples, len(codes))
    raise typer.Exit(heard.end())


def roundtrip(
    source: Audio,
    target: Annotated[
        str | None, typer.Argument(help="The .wav file to write, or - for standard output.", show_default="none")
    ] = None,
    model: Codec = MIMI,
    codebooks: Codebooks = None,
    device: Device = "cpu",
) -> None:
    """Encode audio and decode it again: how it sounds, and what it costs."""
    prepare(target)
    codec = open_codec(model, device)
    there, back, measured = codec.encode_stream(codebooks), codec.decode_stream(), Fidelity()
    with wav(target, codec.rate_hz) if target else nullcontext(lambda samples: None) as write:

        def take(block: Samples) -> None:
            measured.hear(block)
            write(measured.compare(back.feed(there.feed(block))))

        heard = hear(source, codec, take)
        if heard.whole:
            with held():
                write(measured.compare(back.feed(there.finish())))
    report(source, target, codec, measured.samples, codebooks or codec.codebooks, measured)
    raise typer.Exit(heard.end())


@dataclass
class Heard:
    """How far a source was heard, and why no further."""

    source: str
    rate_hz: int
    samples: int = 0
    error: AudioError | None = None
    stopped: bool = False
    whole: bool = True  # a second Ctrl-C stops in the middle of a part, of which nothing is known then

    def stop(self) -> None:
        """Ctrl-C: there is something to give, or nothing to say."""
        if not self.samples:
            raise KeyboardInterrupt
        self.stopped = True

    def end(self) -> int:
        """The exit code, once everything is given; raises the error of a source that broke off."""
        if self.error is not None:
            raise self.error
        if self.stopped:
            return fail(f"{shown(self.source)}: stopped after {self.samples / self.rate_hz:.1f} s", code=INTERRUPTED)
        return 0


def hear(source: str, codec: CodecModel, take: Callable[[Samples], None]) -> Heard:
    """Hand on a source in parts, to its end, or to where it breaks off or is stopped.

    Raises AudioError or KeyboardInterrupt where nothing was heard.
    """
    heard, waiting = Heard(source, codec.rate_hz), list[Samples]()
    blocks = open_audio(sys.stdin.buffer if source == "-" else source, codec.rate_hz)

    def pass_on() -> None:
        with held():
            heard.whole = False
            part = np.concatenate(waiting)
            take(part)
            waiting.clear()
            heard.samples += len(part)
            progress.update(bar, completed=heard.samples / heard.rate_hz)
            heard.whole = True

    with progress_bar() as progress:
        known = source != "-" and sys.stderr.isatty()
        bar = progress.add_task(Path(shown(source)).name, total=duration_hint(source) if known else None)
        try:
            while gather(blocks, waiting, BATCH * codec.frame_samples, heard):
                pass_on()
        except KeyboardInterrupt:
            if waiting and heard.whole:
                pass_on()
            heard.stop()
    return heard


def gather(blocks: Iterator[Samples], waiting: list[Samples], enough: int, heard: Heard) -> bool:
    """Whether something waits, once there is enough of it or no more. Many frames in a call cost less each."""
    try:
        while sum(map(len, waiting)) < enough and (block := next(blocks, None)) is not None:
            waiting.append(block)
    except AudioError as error:
        if not (waiting or heard.samples):
            raise
        heard.error = error
    return bool(waiting)


class Fidelity:
    """The signal-to-noise ratio of a stream that lags behind what it stands for."""

    def __init__(self) -> None:
        self.signal = self.noise = 0.0
        self.samples = 0
        self._waiting = np.zeros(0, np.float32)

    def hear(self, samples: Samples) -> None:
        self._waiting = np.concatenate([self._waiting, samples])

    def compare(self, decoded: Samples) -> Samples:
        """Next to what was heard; returns as much of it as there is something to compare with."""
        heard, self._waiting = np.split(self._waiting, [len(decoded)])
        decoded = decoded[: len(heard)]
        self.samples += len(heard)
        self.signal += float(np.square(heard, dtype=np.float64).sum())
        self.noise += float(np.square(heard - decoded, dtype=np.float64).sum())
        return decoded

    def __str__(self) -> str:
        if not self.signal or not self.noise:
            return "silence" if not self.signal else "no noise"
        return f"{10 * math.log10(self.signal / self.noise):.1f} dB signal to noise"


def open_codec(model: str, device: str) -> CodecModel:
    """Raises CheckpointError for what cannot be loaded or is no codec, ValueError for a device that is not there."""
    loaded = load(model, device=device)
    if not isinstance(loaded, CodecModel):
        raise CheckpointError(f"{model}: expected a codec, got a model that writes text")
    return loaded


def about(codec: CodecModel, model: str, samples: int) -> About:
    """What a file says of codes for so many samples; of a folder only its own name, since others may read it."""
    digest = hashlib.sha256()
    for name, tensor in codec.model.quantizer.state_dict().items():
        if name.endswith("embedding"):
            digest.update(tensor.cpu().numpy().tobytes())
    name = Path(model).resolve().name if Path(model).is_dir() else model
    size = codec.model.config.codebook_size
    return About(samples, codec.rate_hz, codec.frame_samples, size, name, digest.hexdigest()[:16])


def report(
    source: str, target: str | None, codec: CodecModel, samples: int, codebooks: int, measured: Fidelity | None = None
) -> None:
    """A line about what was done; on standard error where standard output holds the result."""
    name = "standard output" if target == "-" else shown(target or source)
    frames = -(-samples // codec.frame_samples)
    line = f"{name}: {samples / codec.rate_hz:.2f} s, {frames} frames of {codebooks} codes"
    line += f", {codec.bits_per_s(codebooks) / 1000:.4g} kbit/s" + (f", {measured}" if measured else "")
    typer.echo(line, err=target == "-")


def prepare(target: str | None) -> None:
    """Find out now, and not after an hour of audio, where nothing can be written."""
    if target == "-" and sys.stdout.isatty():
        raise typer.BadParameter("expected a file or a pipe for -, got a terminal")
    if target not in (None, "-"):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        if Path(target).is_dir():
            raise EarfulError(f"{shown(target)}: expected the name of a file to write, got a folder")


def wav(target: str, rate_hz: int, samples: int | None = None) -> AbstractContextManager[Callable[[Samples], None]]:
    return writing_wav(sys.stdout.buffer if target == "-" else target, rate_hz, samples)


@contextmanager
def read_from(source: str) -> Iterator[Path]:
    """A file to read; what comes through a pipe is kept in one."""
    if source != "-" and is_plain(source):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="earful-") as folder:
        path = Path(folder, "standard input")
        with path.open("wb") as file, opened(source, "rb", sys.stdin) as pipe:
            shutil.copyfileobj(pipe, file)
        yield path


@contextmanager
def written_to(target: str) -> Iterator[Path]:
    """A file to write; for a pipe or a device it is copied there when it is whole."""
    if target != "-" and is_plain(target):
        yield Path(target)
        return
    with tempfile.TemporaryDirectory(prefix="earful-") as folder:
        path = Path(folder, "standard output")
        yield path
        with path.open("rb") as file, opened(target, "wb", sys.stdout) as pipe:
            shutil.copyfileobj(file, pipe)
            pipe.flush()


def is_plain(name: str) -> bool:
    """Whether there is a file of this name, or could be: no pipe, no device."""
    return Path(name).is_file() or not Path(name).exists()


def opened(name: str, mode: str, standard: TextIO) -> AbstractContextManager[BinaryIO]:
    return nullcontext(standard.buffer) if name == "-" else open(name, mode)  # type: ignore[return-value]
