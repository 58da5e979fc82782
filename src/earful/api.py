"""`load` a model; `transcribe` files or `stream` live audio with it, or `encode` and `decode` with a codec."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import numpy.typing as npt
import torch

from earful.audio.frames import as_samples
from earful.audio.io import NO_LIMITS, Limits, open_audio
from earful.checkpoint.hub import fetch
from earful.errors import AudioError, CheckpointError
from earful.events import Event, Text, Word
from earful.models.mimi.model import Mimi
from earful.nn.linear import pack
from earful.registry import FAMILIES, load_model, recognise
from earful.stream import pieces
from earful.stream.codec import Codes, DecodeStream, EncodeStream
from earful.stream.engine import Engine, Family
from earful.stream.session import Session
from earful.stream.transcript import Transcript

BUILTIN = Path(__file__).parent / "builtin"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

Samples = npt.NDArray[np.floating[Any]]
Source = str | Path | BinaryIO | Samples
# Number of the source, what came if anything did, and the seconds that are heard and, where pieces are, answered.
OnEvents = Callable[[int, list[Event], float], None]


@dataclass(frozen=True)
class Outcome:
    """What became of one source: its transcript, whole or up to where it broke off, and why it broke off."""

    source: Source
    transcript: Transcript
    error: AudioError | None = None


class SpeechModel:
    """A speech model with its tokenizer: one interface for every family."""

    def __init__(self, family_name: str, offline: Family, live: Family, language: str | None = None) -> None:
        self.family = family_name
        self.language = language
        self._offline, self._live = offline, live

    @property
    def rate_hz(self) -> int:
        """The rate of the audio that `stream` and arrays given to `transcribe` must have."""
        return self._live.rate_hz

    @property
    def delay_s(self) -> float | None:
        """How long after a word's end it is written where nothing else is chosen; None where there is no choice."""
        return self._live.delay_s

    @property
    def options(self) -> tuple[str, ...]:
        """What a session may choose beside its delay: names for `stream` and `transcribe`."""
        return tuple(inspect.signature(self._live.open).parameters)[3:]  # behind state, slot and delay_s

    @property
    def languages(self) -> tuple[str, ...]:
        """What `language` may be; nothing where the model writes only one, or chooses by itself."""
        return getattr(self._live, "languages", ())

    @property
    def by_piece(self) -> bool:
        """Whether files are cut at pauses and answered piece by piece, so that a segment ends where a piece does."""
        return isinstance(self._offline, pieces.PieceFamily)

    def stream(self, *, delay_s: float | None = None, **options: Any) -> Session:
        """Open a live session. delay_s: how long after a word's end it is written, where the model lets one choose.

        options: what else the family lets a session choose, see `open` in its stream.py.
        Raises ValueError for a delay that the model does not have, and TypeError for an option.
        """
        return Session(Engine(self._live, 1), delay_s=delay_s, **options)

    def engine(self, slots: int) -> Engine:
        """An engine for several live sessions: `Session(engine)` takes a slot of it."""
        return Engine(self._live, slots)

    @overload
    def transcribe(  # a str is a sequence of str too, but is one source
        self, source: Source, *, batch: int = ..., delay_s: float | None = ..., limits: Limits = ..., **options: Any
    ) -> Transcript: ...
    @overload
    def transcribe(
        self,
        source: Sequence[Source],
        *,
        batch: int = ...,
        delay_s: float | None = ...,
        limits: Limits = ...,
        **options: Any,
    ) -> list[Transcript]: ...
    def transcribe(
        self,
        source: Source | Sequence[Source],
        *,
        batch: int = 1,
        delay_s: float | None = None,
        limits: Limits = NO_LIMITS,
        **options: Any,
    ) -> Transcript | list[Transcript]:
        """The text of a file, an open binary file, or mono float samples [N] at `rate_hz`; or of a list of them.

        batch: how many of a list are heard at once; options: as in `stream`. Raises AudioError for what cannot be read;
        the error's `outcomes` hold everything that was transcribed, the broken source up to where it broke off.
        """
        many = isinstance(source, (list, tuple))
        sources: Sequence[Source] = source if many else [source]  # type: ignore[assignment, list-item]
        heard = self.outcomes(sources, batch=batch, delay_s=delay_s, limits=limits, **options)
        outcomes = sorted(heard, key=lambda o: o[0])
        errors = [outcome.error for _, outcome in outcomes if outcome.error is not None]
        if errors:
            errors[0].outcomes = [outcome for _, outcome in outcomes]
            raise errors[0]
        transcripts = [outcome.transcript for _, outcome in outcomes]
        return transcripts if many else transcripts[0]

    def outcomes(
        self,
        sources: Sequence[Source],
        *,
        batch: int = 1,
        delay_s: float | None = None,
        limits: Limits = NO_LIMITS,
        on_events: OnEvents = lambda number, events, heard_s: None,
        **options: Any,
    ) -> Iterator[tuple[int, Outcome]]:
        """Transcribe `batch` sources at a time; yields (number, outcome) as each is done, which may be out of order.

        A source that cannot be read has its error in its outcome and does not stop the others. Raises ValueError for a
        batch below 1, and for a delay that the model does not have.
        """
        if batch < 1:
            raise ValueError(f"expected a batch of at least 1, got {batch}")
        options["delay_s"] = delay_s
        if isinstance(self._offline, pieces.PieceFamily):
            each = ((number, _blocks(source, self.rate_hz, limits)) for number, source in enumerate(sources))
            language = options.get("language") or self.language
            for recording, events in pieces.transcribe(self._offline, each, batch, **options):
                on_events(recording.number, events, recording.settled_s(self.rate_hz))
                if recording.done:
                    transcript = recording.transcript(language, self.rate_hz)
                    yield recording.number, Outcome(sources[recording.number], transcript, recording.error)
            return
        engine = Engine(self._offline, max(1, min(batch, len(sources))))
        waiting = iter(enumerate(sources))
        hearing: list[_Hearing] = []
        while True:
            while len(hearing) < len(engine.lanes) and (following := next(waiting, None)) is not None:
                hearing.append(_Hearing(*following, engine, self.rate_hz, limits, options))
            if not hearing:
                return
            for one in hearing:
                one.top_up()
            engine.step()
            for one in list(hearing):
                on_events(one.number, one.collect(), one.heard_s)
                if one.done:
                    hearing.remove(one)
                    yield one.number, one.outcome(self.language)


class _Hearing:
    """One source on its way through an engine."""

    def __init__(
        self, number: int, source: Source, engine: Engine, rate_hz: int, limits: Limits, options: dict[str, Any]
    ) -> None:
        self.number, self.source, self.engine, self.rate_hz = number, source, engine, rate_hz
        self.blocks = _blocks(source, rate_hz, limits)
        self.lane = engine.open(**options)
        self.samples = 0
        self.events: list[Event] = []
        self.error: AudioError | None = None

    @property
    def heard_s(self) -> float:
        return self.samples / self.rate_hz

    @property
    def done(self) -> bool:
        return self.lane.finished and not self.lane.framer.ready

    def top_up(self) -> None:
        """Read on until enough audio waits for a full call of the model, or the source ends."""
        while not self.lane.finished and self.lane.framer.ready < self.engine.family.chunk:
            try:
                block = next(self.blocks, None)
            except AudioError as error:
                self.error, block = error, None
            if block is None:
                self.engine.finish(self.lane, self.heard_s)
                return
            self.samples += len(block)
            self.lane.framer.feed(block)

    def collect(self) -> list[Event]:
        new, self.lane.events = self.lane.events, []
        self.events += new
        if self.done:
            self.engine.close(self.lane)
        return new

    def outcome(self, language: str | None) -> Outcome:
        text = "".join(e.text for e in self.events if isinstance(e, Text))
        words = [e for e in self.events if isinstance(e, Word)]
        return Outcome(self.source, Transcript.of(text, words, language, self.heard_s), self.error)


def _blocks(source: Source, rate_hz: int, limits: Limits) -> Iterator[Samples]:
    if not isinstance(source, np.ndarray):
        yield from open_audio(source, rate_hz, limits)
        return
    samples = as_samples(source)
    for begin in range(0, len(samples), rate_hz):
        yield samples[begin : begin + rate_hz]


class CodecModel:
    """A codec: mono audio as frames of a few codes each, and back."""

    def __init__(self, family_name: str, model: Mimi) -> None:
        self.family, self.model = family_name, model
        if model.config.channels != 1:
            raise CheckpointError(f"expected a codec of mono audio, got {model.config.channels} channels")

    @property
    def rate_hz(self) -> int:
        """The rate of the samples."""
        return self.model.config.rate_hz

    @property
    def frame_samples(self) -> int:
        return self.model.config.frame_samples

    @property
    def frame_s(self) -> float:
        return self.model.config.frame_s

    @property
    def codebooks(self) -> int:
        """Codes to a frame at most; the first few of them are coarser audio."""
        return self.model.config.codebooks

    def bits_per_s(self, codebooks: int | None = None) -> float:
        """What the codes of the first few codebooks, or of all, take."""
        c = self.model.config
        return (codebooks or c.codebooks) * math.log2(c.codebook_size) * c.frame_rate_hz

    def encode(self, source: Source, codebooks: int | None = None, *, limits: Limits = NO_LIMITS) -> Codes:
        """A file, an open binary file, or mono float samples [N] at `rate_hz` -> codes int64 [Q, T] of the first
        `codebooks`, or of all.

        Zeros fill up the last frame. Raises AudioError for what cannot be read, ValueError for a number of codebooks
        that the model does not have.
        """
        stream = self.encode_stream(codebooks)
        parts = [stream.feed(block) for block in _blocks(source, self.rate_hz, limits)]
        return np.concatenate([*parts, stream.finish()], axis=1)

    def decode(self, codes: Codes) -> npt.NDArray[np.float32]:
        """codes: integers [Q, T] of the first Q codebooks -> float32 [T * frame_samples].

        Raises ValueError for codes that the model does not have.
        """
        return self.decode_stream().feed(codes)

    def encode_stream(self, codebooks: int | None = None) -> EncodeStream:
        """Samples in, codes out, while they come. Raises ValueError like `encode`."""
        return EncodeStream(self.model, codebooks)

    def decode_stream(self) -> DecodeStream:
        """Codes in, samples out, while they come."""
        return DecodeStream(self.model)


@overload
def load(source: None = None, device: str = ..., dtype: str | None = ...) -> SpeechModel: ...
@overload
def load(source: str | Path | None, device: str = ..., dtype: str | None = ...) -> SpeechModel | CodecModel: ...
def load(source: str | Path | None = None, device: str = "cpu", dtype: str | None = None) -> SpeechModel | CodecModel:
    """Load a model: the small built-in English one, a folder in any known layout, or a hub id.

    dtype: one of `DTYPES`; by default float32 for the built-in model and codecs, and otherwise as the weights are
    stored. Raises CheckpointError when the folder is incomplete, broken or of no known family, and ValueError for a
    device that is not there, and for a codec in another type than float32, in which its codes are defined.
    """
    if dtype is None and source is None:
        dtype = "float32"
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"expected a dtype of {', '.join(DTYPES)}, got {dtype}")
    there = _device(device)
    folder = BUILTIN if source is None else fetch(source)
    family, _ = recognise(folder)
    if FAMILIES[family].streams is None:
        if dtype not in (None, "float32"):
            raise ValueError(f"expected a codec in float32, got {dtype}")
        model, _ = load_model(folder, there, torch.float32)
        assert isinstance(model, Mimi)
        pack(model)
        return CodecModel(family, model)
    model, tokenizer = load_model(folder, there, DTYPES[dtype] if dtype else None)
    assert tokenizer is not None
    offline, live = FAMILIES[family].load_streams()(model, tokenizer)
    return SpeechModel(family, offline, live, language="en" if source is None else None)


def _device(name: str) -> torch.device:
    """A device that can hold a tensor; torch has a different exception for each reason why one cannot."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"expected a device of this machine such as cpu or cuda, got {name} ({reason})") from None
