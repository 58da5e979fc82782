"""Recordings for a model that answers whole pieces: cut at pauses, answered in batches of like length, joined again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from earful.audio.pauses import Piece
from earful.errors import AudioError
from earful.events import Event, Text, Word
from earful.stream.transcript import Transcript

AT_ONCE = 8  # pieces in a batch
AHEAD = 4  # batches' worth of pieces that are gathered, so that those of a batch are of like length
NOTHING = np.zeros(0, np.float32)

Samples = npt.NDArray[np.floating[Any]]


@runtime_checkable
class PieceFamily(Protocol):
    """What a family brings whose model hears a piece of speech to its end before it writes."""

    rate_hz: int

    def open(self, state: Any, slot: int, **options: Any) -> Any: ...
    def init_state(self, batch: int) -> Any: ...
    def answer(self, pieces: Sequence[Piece], memos: Sequence[Any]) -> list[Any]: ...
    def told(self, answer: Any, piece: Piece, memo: Any) -> list[Event]: ...


@dataclass
class Recording:
    """One source: what has been heard of it, and its pieces as they are answered."""

    number: int
    blocks: Iterator[Samples]
    memo: Any
    samples: int = 0
    cut: list[Piece] = field(default_factory=list)
    answers: dict[int, Any] = field(default_factory=dict)  # by number of the piece
    told: list[list[Event]] = field(default_factory=list)  # of the pieces so far, in order
    finished: bool = False  # no more audio will come
    error: AudioError | None = None

    @property
    def done(self) -> bool:
        return self.finished and len(self.told) == len(self.cut)

    def read(self) -> list[int]:
        """Hear the next block; returns the numbers of the pieces that it completes."""
        before = len(self.cut)
        try:
            block = next(self.blocks, None)
        except AudioError as error:
            self.error, block = error, None
        if block is None:
            self.finished = True
            self.cut += self.memo.cutter.finish()
        else:
            self.samples += len(block)
            self.memo.heard = self.samples
            self.cut += self.memo.cutter.feed(block)
        return list(range(before, len(self.cut)))

    def settled_s(self, rate_hz: int) -> float:
        """Up to where everything is answered."""
        if self.done:
            return self.samples / rate_hz
        return self.cut[len(self.told) - 1].end_s if self.told else 0.0

    def tell(self, family: PieceFamily) -> Iterator[list[Event]]:
        """The events of each piece whose turn it is and that is answered."""
        while (turn := len(self.told)) in self.answers:
            self.told.append(family.told(self.answers.pop(turn), self.cut[turn], self.memo))
            yield self.told[-1]

    def transcript(self, language: str | None, rate_hz: int) -> Transcript:
        """The pieces joined."""
        return joined(self.told, language, self.samples / rate_hz)


def joined(told: Iterable[Iterable[Event]], language: str | None, duration_s: float) -> Transcript:
    """The transcript of pieces with these events; no segment goes beyond its piece."""
    parts = [_said(events, language, duration_s) for events in told]
    return Transcript(
        "".join(part.text for part in parts),
        tuple(word for part in parts for word in part.words),
        tuple(segment for part in parts for segment in part.segments),
        language,
        duration_s,
    )


def _said(events: Iterable[Event], language: str | None, duration_s: float) -> Transcript:
    events = list(events)
    text = "".join(event.text for event in events if isinstance(event, Text))
    return Transcript.of(text, [event for event in events if isinstance(event, Word)], language, duration_s)


def transcribe(
    family: PieceFamily, sources: Iterable[tuple[int, Iterator[Samples]]], batch: int, **options: Any
) -> Iterator[tuple[Recording, list[Event]]]:
    """Hear the blocks of numbered sources; yields each source whenever there is news of it, the last time when done.

    News is what was said in one piece, or that more has been heard. batch: pieces answered at once, of all sources
    together; at least AT_ONCE.
    """
    size = max(batch, AT_ONCE)
    state = family.init_state(1)
    waiting: list[tuple[Recording, int]] = []
    going: list[Recording] = []  # those with pieces that are not answered

    def answer() -> Iterator[tuple[Recording, list[Event]]]:
        waiting.sort(key=lambda one: len(one[0].cut[one[1]].samples))
        while waiting:
            now = [waiting.pop() for _ in range(min(size, len(waiting)))]  # the longest first: memory is soon known
            answers = family.answer([r.cut[i] for r, i in now], [r.memo for r, _ in now])
            for (recording, index), answered in zip(now, answers, strict=True):
                recording.answers[index] = answered
                recording.cut[index] = replace(recording.cut[index], samples=NOTHING)
            for recording in list(going):
                for events in recording.tell(family):
                    if recording.done:
                        going.remove(recording)
                    if events or recording.done:
                        yield recording, events

    for number, blocks in sources:
        recording = Recording(number, blocks, family.open(state, 0, **options))
        going.append(recording)
        while not recording.finished:
            waiting += [(recording, index) for index in recording.read()]
            if len(waiting) >= size * AHEAD:
                yield from answer()
            elif not recording.finished:
                yield recording, []
        if recording.done and recording in going:
            going.remove(recording)
            yield recording, []
    yield from answer()
