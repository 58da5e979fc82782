"""What a live session says. Times are seconds from the start of the stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Text:
    """A piece of text as soon as it is known; the pieces of a stream concatenate to its transcript."""

    text: str
    time_s: float  # how much audio had been heard


@dataclass(frozen=True)
class Word:
    """A whole word and when it was said."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Pause:
    """The model's estimate that the speaker pauses for at least so many seconds."""

    seconds: float
    probability: float


@dataclass(frozen=True)
class Audio:
    """An answering voice, mono float32 at the model's rate."""

    samples: npt.NDArray[np.float32]


Event = Text | Word | Pause | Audio
