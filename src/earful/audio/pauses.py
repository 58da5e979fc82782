"""Speech cut at its pauses, by loudness alone, while it comes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from earful.audio.frames import Samples, as_samples

FRAME_S = 0.01
SMOOTH_FRAMES = 3  # over which loudness is averaged
ABOVE_FLOOR_DB = 9.0  # speech is so much louder than the background,
BELOW_PEAK_DB = 35.0  # and at most so much softer than the loudest speech of late
QUIETEST_DB, QUIET_DB = -74.0, -45.0  # the softest background, and the loudest before any other has been heard
DRIFT_DB = 0.02  # to a frame: the background may have become louder since, and speech softer
QUIET_S = 0.2  # where a piece that is too long is cut, this long is as soft as can be


@dataclass(frozen=True)
class Pauses:
    """Where speech is cut. Raises ValueError for what is out of range.

    pause_s: so much silence ends a piece; longest_s: of a piece, which is then cut where it is softest in its second
    half; margin_s: of silence that stays on either side of the speech; least_s: a shorter sound is no speech.
    """

    pause_s: float = 0.5
    longest_s: float = 30.0
    margin_s: float = 0.2
    least_s: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.margin_s < self.pause_s < self.longest_s / 2:
            raise ValueError(
                "expected 0 <= margin_s < pause_s < longest_s / 2, got "
                f"{self.margin_s}, {self.pause_s} and {self.longest_s} s"
            )
        if not FRAME_S <= self.least_s < self.pause_s:
            raise ValueError(f"expected least_s of {FRAME_S} s at least and less than pause_s, got {self.least_s} s")


@dataclass(frozen=True)
class Piece:
    """One stretch of speech: its samples with the silence around them, where they begin, and where the speech lies.

    spoken: bool, of each FRAME_S from start_s to end_s whether there is speech in it, and there is in some.
    """

    samples: Samples
    first_s: float
    start_s: float
    end_s: float
    spoken: npt.NDArray[np.bool_]


class Cutter:
    """Cut a stream of samples at its pauses; any chunking gives the same pieces.

    A frame of 10 ms is speech where it is louder than the background and not much softer than speech was before. Both
    are tracked: the background as the least loudness of late, speech as the most. Holds the longest piece at most, and
    what was fed last.
    """

    def __init__(self, rate_hz: int, pauses: Pauses | None = None) -> None:
        self.rate_hz = rate_hz
        p = pauses or Pauses()
        frames = (round(s / FRAME_S) for s in (p.pause_s, p.longest_s, p.margin_s, p.least_s))
        self._pause, self._longest, self._margin, self._least = frames
        self._hop = round(FRAME_S * rate_hz)
        self._held = np.zeros(0, np.float32)  # the samples that a piece may still need
        self._levels: list[float] = []  # dB of each whole frame of them
        self._spoken: list[bool] = []  # whether it is speech
        self._first = 0  # the frame at which they begin
        self._used = 0  # where the last piece ended
        self._power = np.zeros(SMOOTH_FRAMES - 1)  # of the frames before the next
        self._floor, self._peak = QUIET_DB, QUIETEST_DB
        self._loud = 0  # frames of speech in a row
        self._start: int | None = None  # where the speech of the piece begins
        self._end = 0  # and ends, as far as it is known

    def feed(self, samples: npt.NDArray[np.floating[Any]]) -> list[Piece]:
        """Hear some more: float [N], any N. Returns the pieces that are complete; raises AudioError for no audio."""
        self._held = np.concatenate([self._held, as_samples(samples)])
        pieces = []
        for level in self._measured():
            self._levels.append(level)
            piece = self._hear(level)
            if piece is not None:
                pieces.append(piece)
        self._forget()
        return pieces

    def finish(self) -> list[Piece]:
        """The end of the audio: the last piece, if there was speech since the one before."""
        if self._start is None:
            return []
        return [self._piece(self._start, self._end, self._end + self._margin)]

    def _measured(self) -> list[float]:
        """Loudness in dB of the whole frames that have not been looked at."""
        begin = len(self._levels) * self._hop
        frames = self._held[begin : begin + (len(self._held) - begin) // self._hop * self._hop].reshape(-1, self._hop)
        if not len(frames):
            return []
        power = np.concatenate([self._power, np.square(frames, dtype=np.float64).mean(-1)])
        self._power = power[-(SMOOTH_FRAMES - 1) :]
        smooth = np.convolve(power, np.full(SMOOTH_FRAMES, 1 / SMOOTH_FRAMES), "valid")
        return (10 * np.log10(smooth + 1e-12)).tolist()  # type: ignore[no-any-return]

    def _hear(self, level: float) -> Piece | None:
        """One more frame: the piece that it ends, if it does."""
        now = self._first + len(self._levels)
        self._floor = max(QUIETEST_DB, min(level, self._floor + DRIFT_DB))
        self._peak = max(level, self._peak - DRIFT_DB)
        is_speech = level > max(self._floor + ABOVE_FLOOR_DB, self._peak - BELOW_PEAK_DB)
        self._spoken.append(is_speech)
        self._loud = self._loud + 1 if is_speech else 0
        if self._loud >= self._least:
            if self._start is None:
                self._start = now - self._loud
            self._end = now
        if self._start is None:
            return None
        if now - self._end >= self._pause:
            start, self._start = self._start, None
            return self._piece(start, self._end, self._end + self._margin)
        if now - self._start + self._margin >= self._longest:
            start, cut = self._start, self._softest(self._start + self._longest // 2, now)
            self._start = cut if self._end > cut else None
            return self._piece(start, min(cut, self._end), cut)
        return None

    def _softest(self, begin: int, end: int) -> int:
        """The middle of the softest QUIET_S between two frames."""
        width = round(QUIET_S / FRAME_S)
        levels = np.asarray(self._levels[begin - self._first : end - self._first])
        return begin + int(np.convolve(levels, np.ones(width), "valid").argmin()) + width // 2

    def _piece(self, start: int, end: int, last: int) -> Piece:
        begin = max(self._used, start - self._margin, 0)
        self._used = last
        samples = self._held[(begin - self._first) * self._hop : (last - self._first) * self._hop].copy()
        spoken = np.array(self._spoken[start - self._first : end - self._first])
        first_s, start_s, end_s = (frame * self._hop / self.rate_hz for frame in (begin, start, end))
        return Piece(samples, first_s, start_s, end_s, spoken)

    def _forget(self) -> None:
        """Let go of what no piece will need."""
        begin = self._first + len(self._levels) - self._loud if self._start is None else self._start
        gone = max(0, begin - self._margin - self._first)
        self._held, self._first = self._held[gone * self._hop :], self._first + gone
        self._levels, self._spoken = self._levels[gone:], self._spoken[gone:]
